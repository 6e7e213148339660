"""Questions and answers by a capable chat model: one request asks, one writes the whole target.

Both prompts are templates (`raft.prompts`). The target is asked for in the very format that is
trained (`raft.rendering`) and read by the same parser; every quote is verified against the passage
that it cites. What fails is dropped, not repaired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipeline_lib.artifacts.manifest import canonical_json
from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.generation.base import Completion, GenerationParams, MeteredGenerator, Prompt
from pipeline_lib.raft.candidates import Candidate, Rejection, Topic, Written
from pipeline_lib.raft.markup import escape
from pipeline_lib.raft.prompts.library import PromptLibrary
from pipeline_lib.raft.quotes import fold
from pipeline_lib.raft.rendering import RenderedPassage, render_document
from pipeline_lib.raft.rows import Split
from pipeline_lib.raft.showing import ShownPassage
from pipeline_lib.raft.wording import has_content_words
from pipeline_lib.raft.writers.replies import (
    check_question,
    read_answer,
    read_questions,
    withheld,
)

MIN_PASSAGE_CHARS = 120
MIN_PASSAGE_WORDS = 9
"""Different content words that a passage must have to be worth asking about."""
NUM_HITS_SHOWN = 3
"""Retrieved passages that an unanswerable question is tried on, beside its own."""

_READING_VERSION = "chat-2"
"""Raised when replies are read differently."""
_TOKENS_PER_QUESTION = 64
_SPARE_TOKENS = 64
_TARGET_TOKENS = 768
_ROWS_PER_QUESTION = 2 / 3
"""Of the questions asked, those that become rows: a guess, which later rounds correct."""

_QUESTIONS_SCHEMA = canonical_json(
    {
        "type": "object",
        "properties": {"questions": {"type": "array", "items": {"type": "string"}}},
        "required": ["questions"],
        "additionalProperties": False,
    }
).decode()


def chat_prompt_version(prompts: PromptLibrary) -> str:
    """Of a chat writer with these templates."""
    return f"{_READING_VERSION}-{prompts.version}"


class ChatWriter:
    """Writes with a chat model.

    Args:
        config: questions per request, temperature and seed.
        teacher: the model.
        titles: document id to title.
        prompts: `ask-<kind>`, `style-<style>`, `answer` and `answer-known` are used.
    """

    def __init__(
        self,
        config: SynthesizeConfig,
        teacher: MeteredGenerator,
        titles: Mapping[str, str],
        prompts: PromptLibrary,
    ) -> None:
        self._config = config
        self._teacher = teacher
        self._titles = titles
        self._prompts = prompts
        self._per_request = config.questions.per_passage
        self.prompt_version = chat_prompt_version(prompts)
        self.topics_per_row = 1 / (_ROWS_PER_QUESTION * self._per_request)

    def topics(self, chunk: Chunk, split: Split) -> list[Topic]:
        """The whole passage, unless it is too short to hold something to ask about."""
        is_fit = len(chunk.text) >= MIN_PASSAGE_CHARS and has_content_words(
            chunk.text, MIN_PASSAGE_WORDS
        )
        return [Topic(split=split, chunks=(chunk,))] if is_fit else []

    def num_candidates(self, _topic: Topic) -> int:
        """As many as one request asks for."""
        return self._per_request

    def ask(self, topics: Sequence[Topic]) -> list[Candidate | tuple[Candidate, Rejection]]:
        """The questions that one request per topic brings."""
        max_new_tokens = _SPARE_TOKENS + _TOKENS_PER_QUESTION * self._per_request
        params = replace(self._params(max_new_tokens), json_schema=_QUESTIONS_SCHEMA)
        completions = self._teacher.generate(
            [self._ask_prompt(topic) for topic in topics], params, step="asking"
        )
        return [
            asked
            for topic, completion in zip(topics, completions, strict=True)
            for asked in self._read_questions(topic, completion)
        ]

    def answer(self, candidates: Sequence[Candidate]) -> list[Written | Rejection]:
        """The targets that one request per question brings.

        A known answer is told to the teacher, and stays word for word. An unanswerable question is
        right when the teacher refuses it, shown its passage and the best that retrieval finds.
        """
        completions = self._teacher.generate(
            [self._answer_prompt(candidate) for candidate in candidates],
            self._params(_TARGET_TOKENS),
            step="answering",
        )
        return [
            self._read_answer(candidate, completion)
            for candidate, completion in zip(candidates, completions, strict=True)
        ]

    def _ask_prompt(self, topic: Topic) -> Prompt:
        return Prompt.chat(
            self._prompts.messages(
                f"ask-{topic.kind}",
                documents=_documents(self._shown(topic)),
                num_questions=self._per_request,
                style_instruction=self._prompts.text(f"style-{topic.style}"),
            )
        )

    def _answer_prompt(self, candidate: Candidate) -> Prompt:
        passages: list[RenderedPassage] = [*self._shown(candidate.topic)]
        if not candidate.is_answerable:
            own = {chunk.chunk_id for chunk in candidate.topic.chunks}
            others = [hit for hit in candidate.hits if not any(map(hit.covers, own))]
            passages += others[:NUM_HITS_SHOWN]
        values = {"documents": _documents(passages), "question": _on_one_line(candidate.question)}
        if candidate.known_answer is None:
            return Prompt.chat(self._prompts.messages("answer", **values))
        known = _on_one_line(candidate.known_answer)
        return Prompt.chat(self._prompts.messages("answer-known", known_answer=known, **values))

    def _read_questions(
        self, topic: Topic, completion: Completion
    ) -> list[Candidate | tuple[Candidate, Rejection]]:
        why = withheld(completion, "question")
        questions = [] if why else read_questions(completion, num_wanted=self._per_request)
        if not questions:
            is_cut = completion.finish_reason == "length"
            reason = "truncated" if is_cut else "no_question"
            nothing = Candidate(topic=topic, question="")
            return [(nothing, why or Rejection("question", reason, completion.text))]
        asked: list[Candidate | tuple[Candidate, Rejection]] = []
        for question in questions:
            candidate = Candidate(topic=topic, question=question)
            problem = check_question(question)
            if problem is None:
                asked.append(candidate)
            else:
                asked.append((candidate, Rejection("question", problem, completion.text)))
        return asked

    def _read_answer(self, candidate: Candidate, completion: Completion) -> Written | Rejection:
        shown = self._shown(candidate.topic)
        read = read_answer(completion, shown, is_answerable=candidate.is_answerable)
        if candidate.known_answer is not None and isinstance(read, Written):
            return Written(read.steps, candidate.known_answer)
        return read

    def _shown(self, topic: Topic) -> list[ShownPassage]:
        return [ShownPassage(chunk, self._titles[chunk.document_id]) for chunk in topic.chunks]

    def _params(self, max_new_tokens: int) -> GenerationParams:
        return GenerationParams(
            max_new_tokens=max_new_tokens,
            temperature=self._config.teacher.temperature,
            seed=self._config.seed,
        )


def _documents(passages: Sequence[RenderedPassage]) -> str:
    return "\n".join(render_document(n, passage) for n, passage in enumerate(passages, start=1))


def _on_one_line(text: str) -> str:
    return escape(fold(text))
