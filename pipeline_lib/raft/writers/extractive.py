"""Questions and answers by a small model in this process, whose every freedom is earned.

It continues plain texts of worked examples (see `questions` and `answers` beside this module):
questions from single sentences, answers as spans of the sentence by likelihood, one sentence of
reasoning. A topic is one sentence of one passage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.generation.base import GenerationParams, MeteredGenerator, Score
from pipeline_lib.raft.candidates import Candidate, Rejection, Topic, Written, quote_of
from pipeline_lib.raft.facts import Fact, facts_of
from pipeline_lib.raft.quotes import fold
from pipeline_lib.raft.rows import ReasoningStep, Split
from pipeline_lib.raft.writers.answers import (
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
from pipeline_lib.raft.writers.questions import (
    QUESTION_PARAMS,
    check_question,
    first_words,
    question_prompt,
)
from pipeline_lib.raft.writers.replies import withheld

EXTRACTIVE_VERSION = "extractive-1"
"""Raised when its prompts or its checks change."""

_MAX_SHOWN_ANSWER_WORDS = 60


@dataclass(frozen=True)
class _Choice:
    """The best answer to a question, before its reasoning."""

    answer: str
    cost: float
    """Nats per word."""


class ExtractiveWriter:
    """Writes with a model that can continue and score plain text.

    Args:
        config: temperature, seed and shortest quote.
        teacher: the model.
        titles: document id to title.
    """

    prompt_version = EXTRACTIVE_VERSION
    topics_per_row = 3.0

    def __init__(
        self, config: SynthesizeConfig, teacher: MeteredGenerator, titles: Mapping[str, str]
    ) -> None:
        self._config = config
        self._teacher = teacher
        self._titles = titles

    def topics(self, chunk: Chunk, split: Split) -> list[Topic]:
        """Its sentences that stand on their own."""
        facts = facts_of(chunk, min_quote_chars=self._config.gates.min_quote_chars)
        return [Topic(split=split, chunks=(chunk,), span=(f.start, f.end)) for f in facts]

    def num_candidates(self, topic: Topic) -> int:
        """One per forced beginning."""
        return len(first_words(_fact(topic)))

    def ask(self, topics: Sequence[Topic]) -> list[Candidate | tuple[Candidate, Rejection]]:
        """A question per sentence and beginning."""
        tried = [(topic, word) for topic in topics for word in first_words(_fact(topic))]
        completions = self._teacher.generate(
            [
                question_prompt(_fact(topic), self._title(topic.chunks[0]), word)
                for topic, word in tried
            ],
            self._params(QUESTION_PARAMS),
            step="asking",
        )
        asked: list[Candidate | tuple[Candidate, Rejection]] = []
        for (topic, _), completion in zip(tried, completions, strict=True):
            candidate = Candidate(topic=topic, question=fold(completion.text))
            why = withheld(completion, "question") or self._check_question(candidate)
            asked.append(candidate if why is None else (candidate, why))
        return asked

    def answer(self, candidates: Sequence[Candidate]) -> list[Written | Rejection]:
        """Answers to questions, and reasons for known answers.

        Of the questions about one sentence, the one that is answered best gets its reasoning; the
        others are rejected. So the candidates of a topic belong into one call.
        """
        known = [n for n, candidate in enumerate(candidates) if candidate.known_answer is not None]
        asked = [n for n, candidate in enumerate(candidates) if candidate.known_answer is None]
        results = dict(zip(known, self._explain([candidates[n] for n in known]), strict=True))
        results |= zip(asked, self._answer([candidates[n] for n in asked]), strict=True)
        return [results[number] for number in range(len(candidates))]

    def _check_question(self, candidate: Candidate) -> Rejection | None:
        topic = candidate.topic
        title = self._title(topic.chunks[0])
        problem = check_question(candidate.question, _fact(topic), title)
        return None if problem is None else Rejection("question", problem)

    def _answer(self, asked: Sequence[Candidate]) -> list[Written | Rejection]:
        choices = self._choose(asked)
        results: list[Written | Rejection] = [
            choice
            if isinstance(choice, Rejection)
            else Rejection("answer", "another_question_fits_better")
            for choice in choices
        ]
        best: dict[tuple[str, int], tuple[float, int]] = {}
        for number, choice in enumerate(choices):
            if isinstance(choice, _Choice):
                fact, ranked = _fact(asked[number].topic), (choice.cost, number)
                place = (fact.chunk.chunk_id, fact.start)
                best[place] = min(best.get(place, ranked), ranked)
        winners = sorted(number for _, number in best.values())
        for number, written in zip(winners, self._reason(asked, choices, winners), strict=True):
            results[number] = written
        return results

    def _choose(self, asked: Sequence[Candidate]) -> list[_Choice | Rejection]:
        facts = [_fact(item.topic).text for item in asked]
        spans = [answer_spans(fact, item.question) for item, fact in zip(asked, facts, strict=True)]
        pairs = [
            (answer_prompt(fact, item.question), answer_target(span))
            for item, fact, candidates in zip(asked, facts, spans, strict=True)
            for span in candidates
        ]
        scores = iter(
            self._teacher.score(
                [prompt for prompt, _ in pairs], [target for _, target in pairs], step="answering"
            )
        )
        return [
            _choice(item.question, fact, candidates, list(islice(scores, len(candidates))))
            for item, fact, candidates in zip(asked, facts, spans, strict=True)
        ]

    def _reason(
        self,
        asked: Sequence[Candidate],
        choices: Sequence[_Choice | Rejection],
        winners: Sequence[int],
    ) -> list[Written | Rejection]:
        answers = {
            number: choice.answer
            for number in winners
            if isinstance(choice := choices[number], _Choice)
        }
        completions = self._teacher.generate(
            [
                reasoning_prompt(_fact(asked[number].topic).text, asked[number].question, answer)
                for number, answer in answers.items()
            ],
            self._params(REASONING_PARAMS),
            step="reasoning",
        )
        results: list[Written | Rejection] = []
        for (number, answer), completion in zip(answers.items(), completions, strict=True):
            fact, text = _fact(asked[number].topic), fold(completion.text)
            source = f"{fact.text} {self._title(fact.chunk)}"
            why = withheld(completion, "reasoning") or _check_reasoning(
                text, asked[number].question, answer, source
            )
            quote = quote_of(fact.chunk, fact.start, fact.end)
            results.append(why or Written((ReasoningStep(text=text, quote=quote),), answer))
        return results

    def _explain(self, known: Sequence[Candidate]) -> list[Written | Rejection]:
        """One sentence before the evidence."""
        sources = [fold(" ".join(quote.text for quote in item.evidence)) for item in known]
        answers = [item.known_answer or "" for item in known]
        completions = self._teacher.generate(
            [
                reasoning_prompt(source, fold(item.question), _shortened(answer))
                for item, source, answer in zip(known, sources, answers, strict=True)
            ],
            self._params(REASONING_PARAMS),
            step="explaining",
        )
        results: list[Written | Rejection] = []
        for item, source, answer, completion in zip(
            known, sources, answers, completions, strict=True
        ):
            text = fold(completion.text)
            told = f"{source} {self._title(item.topic.chunks[0])}"
            why = withheld(completion, "reasoning") or _check_reasoning(
                text, item.question, answer, told
            )
            first, *others = item.evidence or (None,)
            steps = [ReasoningStep(text=text, quote=first)]
            steps += [ReasoningStep(text="", quote=quote) for quote in others]
            results.append(why or Written(tuple(steps), answer))
        return results

    def _params(self, params: GenerationParams) -> GenerationParams:
        return replace(params, temperature=self._config.teacher.temperature, seed=self._config.seed)

    def _title(self, chunk: Chunk) -> str:
        return self._titles[chunk.document_id]


def _fact(topic: Topic) -> Fact:
    chunk = topic.chunks[0]
    start, end = topic.span or (0, len(chunk.text))
    return Fact(chunk, start, end)


def _choice(
    question: str, fact: str, spans: Sequence[str], scores: Sequence[Score]
) -> _Choice | Rejection:
    if not spans:
        return Rejection("answer", "no_span_answers")
    answer, cost = choose_answer(spans, scores)
    if cost > MAX_NATS_PER_WORD:
        return Rejection("answer", "teacher_unsure", answer)
    problem = check_answer(answer, question, fact)
    return Rejection("answer", problem, answer) if problem else _Choice(answer, cost)


def _check_reasoning(text: str, question: str, answer: str, source: str) -> Rejection | None:
    problem = check_reasoning(text, question, answer, source)
    return None if problem is None else Rejection("reasoning", problem, text)


def _shortened(answer: str) -> str:
    """An answer as the prompt shows it: its first words are enough to explain it."""
    return " ".join(answer.split()[:_MAX_SHOWN_ANSWER_WORDS])
