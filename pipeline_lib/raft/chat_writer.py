"""Questions and answers by a capable chat model: one request asks, one writes the whole target.

The target is asked for in the very format that is trained (`raft.rendering`), parsed by the same
parser, and every quote is verified against the passage: what fails is dropped, not repaired.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.generation.base import Completion, GenerationParams, Prompt
from pipeline_lib.raft.drafts import Asked, Failure, KnownAnswer, Written, quote_of
from pipeline_lib.raft.facts import Fact
from pipeline_lib.raft.markup import escape, unescape
from pipeline_lib.raft.questions import check_wording
from pipeline_lib.raft.quotes import fold, verify_quote
from pipeline_lib.raft.recorded import RecordedTeacher
from pipeline_lib.raft.rendering import parse_answer, render_document, render_prompt
from pipeline_lib.raft.rows import Passage, ReasoningStep
from pipeline_lib.raft.wording import content_words

QUESTIONS_PER_PASSAGE = 2
MIN_PASSAGE_CHARS = 120
MIN_GROUNDED_SHARE = 0.5
"""Of a final answer's content words, those that the passage has."""

_QUESTION_TOKENS = 160
_TARGET_TOKENS = 512

_ASK = (
    f"Write {QUESTIONS_PER_PASSAGE} different questions that the document alone answers. One per "
    "line, nothing else. Each must be understood without seeing the document: name what it is "
    "about, and never mention the document, passage or text. Each must have one short answer that "
    "is stated in the document, and end with a question mark."
)
_ANSWER = (
    "You write model answers. Answer the question from the document in this form:\n"
    "One to three short sentences that reason towards the answer. Each is followed by the words "
    'that it rests on, copied from the document character by character: <quote doc="1">copied '
    "words</quote>. Copy whole phrases, change nothing, leave nothing out.\n"
    "<answer>the answer, as short as possible</answer>\n\n"
    "Example of the form:\n"
    "The question is about Saturdays. The document gives the hour for that day. "
    '<quote doc="1">On Saturdays the library closes at noon</quote>\n'
    "<answer>At noon</answer>"
)
_KNOWN = "The correct answer is known: {answer}\nReason towards exactly this answer."
_LIST_MARK = re.compile(
    r"^\s*(?:(?:[-*•]|\(?\d+[.):]|Q\d*[.):]|Question(?: \d+)?:)\s*)+", re.IGNORECASE
)


class ChatWriter:
    """Writes with a chat model.

    Args:
        teacher: the model.
        titles: document id to title.
        config: temperature, seed and shortest quote.
    """

    prompt_version = "chat-1"
    facts_per_row = 0.75

    def __init__(
        self, teacher: RecordedTeacher, titles: Mapping[str, str], config: SynthesizeConfig
    ) -> None:
        self._teacher = teacher
        self._titles = titles
        self._config = config

    def facts(self, chunk: Chunk) -> list[Fact]:
        """The whole passage, unless it is too short to hold something to ask about."""
        is_fit = len(chunk.text) >= MIN_PASSAGE_CHARS and len(set(content_words(chunk.text))) > 8
        return [Fact(chunk, 0, len(chunk.text))] if is_fit else []

    def num_candidates(self, _fact: Fact) -> int:
        """As many as the prompt asks for."""
        return QUESTIONS_PER_PASSAGE

    def ask(self, facts: Sequence[Fact]) -> list[Asked]:
        """The questions that one request per passage brings."""
        prompts = [
            Prompt.chat(
                [
                    {"role": "system", "content": _ASK},
                    {"role": "user", "content": render_document(1, self._passage(fact.chunk))},
                ]
            )
            for fact in facts
        ]
        completions = self._teacher.generate(prompts, self._params(_QUESTION_TOKENS), what="asking")
        asked: list[Asked] = []
        for fact, completion in zip(facts, completions, strict=True):
            lines = [line for line in completion.text.splitlines() if line.strip()]
            for line in lines[:QUESTIONS_PER_PASSAGE] or [""]:
                question = unescape(fold(_LIST_MARK.sub("", line)))
                asked.append(Asked(fact, question, check_wording(question)))
        return asked

    def answer(self, asked: Sequence[Asked]) -> list[Written | Failure]:
        """The targets that one request per question brings."""
        completions = self._targets([(item.question, item.fact.chunk, None) for item in asked])
        return [
            self._read(completion, item.fact.chunk)
            for item, completion in zip(asked, completions, strict=True)
        ]

    def explain(self, known: Sequence[KnownAnswer]) -> list[Written | None]:
        """As `answer`, with the answer told; the user's wording of it stays."""
        completions = self._targets(
            [(item.question, item.oracle, item.final_answer) for item in known]
        )
        results: list[Written | None] = []
        for item, completion in zip(known, completions, strict=True):
            read = self._read(completion, item.oracle, is_known=True)
            results.append(
                Written(read.steps, item.final_answer) if isinstance(read, Written) else None
            )
        return results

    def _targets(self, tasks: Sequence[tuple[str, Chunk, str | None]]) -> list[Completion]:
        prompts = []
        for question, chunk, known in tasks:
            user = render_prompt(question, [self._passage(chunk)])[-1]["content"]
            if known is not None:
                user += "\n" + _KNOWN.format(answer=escape(fold(known)))
            messages = [{"role": "system", "content": _ANSWER}, {"role": "user", "content": user}]
            prompts.append(Prompt.chat(messages))
        return self._teacher.generate(prompts, self._params(_TARGET_TOKENS), what="answering")

    def _read(
        self, completion: Completion, chunk: Chunk, *, is_known: bool = False
    ) -> Written | Failure:
        """Parse and verify a target."""
        text = completion.text
        if completion.finish_reason == "length":
            return Failure("answer", "truncated", text)
        passages = [self._passage(chunk)]
        parsed = parse_answer(text, passages)
        if parsed.final_answer is None:
            return Failure("answer", "no_answer_marked", text)
        if parsed.is_refusal:
            return Failure("answer", "refused", text)
        said = set(content_words(parsed.final_answer))
        known = set(content_words(chunk.text))
        if not is_known and len(said & known) < MIN_GROUNDED_SHARE * len(said):
            return Failure("answer", "answer_not_grounded", parsed.final_answer)
        if not parsed.quotes:
            return Failure("reasoning", "no_quote", text)
        steps = []
        for step in parsed.steps:
            if step.quote is None:
                steps.append(ReasoningStep(text=fold(step.text)))
                continue
            check = verify_quote(step.quote.text, step.quote.passage_number, passages)
            if check.status != "verbatim" or check.start is None or check.end is None:
                return Failure("reasoning", f"quote_{check.status}", step.quote.text)
            if check.end - check.start < self._config.min_quote_chars:
                return Failure("reasoning", "quote_too_short", step.quote.text)
            quote = quote_of(chunk, check.start, check.end)
            steps.append(ReasoningStep(text=fold(step.text), quote=quote))
        if not any(step.text for step in steps):
            return Failure("reasoning", "only_quotes", text)
        return Written(tuple(steps), parsed.final_answer)

    def _passage(self, chunk: Chunk) -> Passage:
        return Passage(
            chunk_id=chunk.chunk_id,
            document_id=chunk.document_id,
            title=self._titles[chunk.document_id],
            text=chunk.text,
            role="oracle",
            origin="oracle",
        )

    def _params(self, max_new_tokens: int) -> GenerationParams:
        return GenerationParams(
            max_new_tokens=max_new_tokens,
            temperature=self._config.teacher.temperature,
            seed=self._config.seed,
        )
