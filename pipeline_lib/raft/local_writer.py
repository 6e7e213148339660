"""Questions and answers by a small model in this process, whose every freedom is earned.

It continues plain texts of worked examples (see `raft.questions` and `raft.answers`): questions
from single facts, answers as spans of the fact by likelihood, one sentence of reasoning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.generation.base import GenerationParams, Score
from pipeline_lib.raft.answers import (
    MAX_NATS_PER_WORD,
    REASONING_PARAMS,
    answer_prompt,
    answer_spans,
    answer_target,
    check_answer,
    check_reasoning,
    choose_answer,
    reasoning_prompt,
)
from pipeline_lib.raft.drafts import Asked, Failure, KnownAnswer, Written, quote_of
from pipeline_lib.raft.facts import Fact, facts_of
from pipeline_lib.raft.questions import (
    QUESTION_PARAMS,
    check_question,
    first_words,
    question_prompt,
)
from pipeline_lib.raft.quotes import fold
from pipeline_lib.raft.recorded import RecordedTeacher
from pipeline_lib.raft.rows import ReasoningStep

_MAX_SHOWN_ANSWER_WORDS = 60


@dataclass(frozen=True)
class _Choice:
    """The best answer to a question, before its reasoning."""

    answer: str
    cost: float
    """Nats per word."""


class LocalWriter:
    """Writes with a model that can continue and score plain text.

    Args:
        teacher: the model.
        titles: document id to title.
        config: temperature, seed and shortest quote.
    """

    prompt_version = "local-1"
    facts_per_row = 3.0

    def __init__(
        self, teacher: RecordedTeacher, titles: Mapping[str, str], config: SynthesizeConfig
    ) -> None:
        self._teacher = teacher
        self._titles = titles
        self._config = config

    def facts(self, chunk: Chunk) -> list[Fact]:
        """Sentences that stand on their own."""
        return facts_of(chunk, min_quote_chars=self._config.min_quote_chars)

    def num_candidates(self, fact: Fact) -> int:
        """One per forced beginning."""
        return len(first_words(fact))

    def ask(self, facts: Sequence[Fact]) -> list[Asked]:
        """A question per fact and beginning."""
        tried = [(fact, word) for fact in facts for word in first_words(fact)]
        completions = self._teacher.generate(
            [question_prompt(fact, self._title(fact.chunk), word) for fact, word in tried],
            self._params(QUESTION_PARAMS),
            what="asking",
        )
        asked = []
        for (fact, _), completion in zip(tried, completions, strict=True):
            question = fold(completion.text)
            problem = check_question(question, fact, self._title(fact.chunk))
            asked.append(Asked(fact, question, problem))
        return asked

    def answer(self, asked: Sequence[Asked]) -> list[Written | Failure]:
        """The best-answered question of each fact gets its reasoning; the others fail."""
        choices = self._choose(asked)
        results: list[Written | Failure | None] = [
            choice if isinstance(choice, Failure) else None for choice in choices
        ]
        best: dict[tuple[str, int], tuple[float, int]] = {}
        for number, choice in enumerate(choices):
            if isinstance(choice, _Choice):
                fact = asked[number].fact
                place = (fact.chunk.chunk_id, fact.start)
                best[place] = min(best.get(place, (choice.cost, number)), (choice.cost, number))
        winners = sorted(number for _, number in best.values())
        for number, written in zip(winners, self._reason(asked, choices, winners), strict=True):
            results[number] = written
        return [result or Failure("answer", "another_question_fits_better") for result in results]

    def explain(self, known: Sequence[KnownAnswer]) -> list[Written | None]:
        """One sentence before the evidence."""
        sources = [fold(" ".join(quote.text for quote in item.evidence)) for item in known]
        completions = self._teacher.generate(
            [
                reasoning_prompt(source, fold(item.question), _shortened(item.final_answer))
                for item, source in zip(known, sources, strict=True)
            ],
            self._params(REASONING_PARAMS),
            what="explaining",
        )
        results: list[Written | None] = []
        for item, source, completion in zip(known, sources, completions, strict=True):
            text = fold(completion.text)
            source = f"{source} {self._title(item.oracle)}"
            if check_reasoning(text, item.question, item.final_answer, source) is not None:
                results.append(None)
                continue
            texts = [text] + [""] * (len(item.evidence) - 1)
            steps = [
                ReasoningStep(text=text, quote=quote)
                for text, quote in zip(texts, item.evidence, strict=True)
            ]
            results.append(Written(tuple(steps), item.final_answer))
        return results

    def _choose(self, asked: Sequence[Asked]) -> list[_Choice | Failure]:
        spans = [answer_spans(item.fact.text, item.question) for item in asked]
        pairs = [
            (answer_prompt(item.fact.text, item.question), answer_target(span))
            for item, candidates in zip(asked, spans, strict=True)
            for span in candidates
        ]
        scores = iter(
            self._teacher.score(
                [prompt for prompt, _ in pairs], [target for _, target in pairs], what="answering"
            )
        )
        return [
            _choice(item, candidates, _take(scores, len(candidates)))
            for item, candidates in zip(asked, spans, strict=True)
        ]

    def _reason(
        self, asked: Sequence[Asked], choices: Sequence[_Choice | Failure], winners: Sequence[int]
    ) -> list[Written | Failure]:
        answers = {
            number: choice.answer
            for number in winners
            if isinstance(choice := choices[number], _Choice)
        }
        completions = self._teacher.generate(
            [
                reasoning_prompt(asked[number].fact.text, asked[number].question, answer)
                for number, answer in answers.items()
            ],
            self._params(REASONING_PARAMS),
            what="reasoning",
        )
        results: list[Written | Failure] = []
        for (number, answer), completion in zip(answers.items(), completions, strict=True):
            fact, text = asked[number].fact, fold(completion.text)
            source = f"{fact.text} {self._title(fact.chunk)}"
            problem = check_reasoning(text, asked[number].question, answer, source)
            if problem is not None:
                results.append(Failure("reasoning", problem, text))
                continue
            quote = quote_of(fact.chunk, fact.start, fact.end)
            results.append(Written((ReasoningStep(text=text, quote=quote),), answer))
        return results

    def _params(self, params: GenerationParams) -> GenerationParams:
        return replace(params, temperature=self._config.teacher.temperature, seed=self._config.seed)

    def _title(self, chunk: Chunk) -> str:
        return self._titles[chunk.document_id]


def _choice(item: Asked, spans: Sequence[str], scores: Sequence[Score]) -> _Choice | Failure:
    if not spans:
        return Failure("answer", "no_span_answers")
    answer, cost = choose_answer(spans, scores)
    if cost > MAX_NATS_PER_WORD:
        return Failure("answer", "teacher_unsure", answer)
    problem = check_answer(answer, item.question, item.fact.text)
    return Failure("answer", problem, answer) if problem else _Choice(answer, cost)


def _take(scores: Iterable[Score], count: int) -> list[Score]:
    return [score for _, score in zip(range(count), scores, strict=False)]


def _shortened(answer: str) -> str:
    """An answer as the prompt shows it: its first words are enough to explain it."""
    return " ".join(answer.split()[:_MAX_SHOWN_ANSWER_WORDS])
