"""The one format: what a model sees, what it is to write, and how what it wrote is read.

Synthesis, training, evaluation and serving all render here, so what is trained is what is served.

    system     what to do, in three sentences
    user       <document id="1" title="…">
               …
               </document>
               …
               Question: …
    assistant  reasoning <quote doc="1">words of document 1</quote> …
               <answer>the answer</answer>

Prompts are paid for in every stage, so the format is short. Whatever documents and questions
contain is escaped (see `raft.markup`), and what a model wrote is unescaped after parsing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline_lib.raft.markup import escape, unescape
from pipeline_lib.raft.quotes import fold
from pipeline_lib.raft.rows import RaftRow

FORMAT_VERSION = 1
"""Raised when the same row would be rendered, or the same text parsed, differently."""

REFUSAL_ANSWER = "The documents do not contain the answer."

SYSTEM_PROMPT = (
    "Answer the question from the documents. First reason briefly and quote the words that prove "
    'the answer: <quote doc="1">exact words of document 1</quote>. Then give the short answer: '
    f"<answer>…</answer>. If no document holds it, write <answer>{REFUSAL_ANSWER}</answer>"
)

_MAX_NUMBER_DIGITS = 6
_TAG = re.compile(r"<(?P<close>/?)(?P<name>quote|answer)\b(?P<attributes>[^<>]*)>", re.IGNORECASE)
_NUMBER = re.compile(rf"\bdoc\s*=\s*[\"']?\s*(\d{{1,{_MAX_NUMBER_DIGITS}}})\b", re.IGNORECASE)
_NOT_WORD = re.compile(r"\W+")


class RenderedPassage(Protocol):
    """A passage that can be shown: a row's, or one that retrieval found."""

    @property
    def title(self) -> str:
        """Title of its document."""

    @property
    def text(self) -> str:
        """Its text."""


@dataclass(frozen=True)
class CitedQuote:
    """A quote as the model gave it, unescaped."""

    text: str
    passage_number: int | None
    """From 1; `None` when it names no passage there is."""


@dataclass(frozen=True)
class ParsedStep:
    """Some text outside the answer, and the quote that follows it."""

    text: str
    quote: CitedQuote | None = None


@dataclass(frozen=True)
class ParsedAnswer:
    """What a model's output says."""

    steps: tuple[ParsedStep, ...]
    """The reasoning in order."""
    final_answer: str | None
    """`None` when nothing was marked as the answer."""
    is_refusal: bool

    @property
    def quotes(self) -> tuple[CitedQuote, ...]:
        """The quotes, in order."""
        return tuple(step.quote for step in self.steps if step.quote is not None)

    @property
    def reasoning_text(self) -> str:
        """Everything outside the answer, quotes included, without the markers."""
        parts = [
            part for step in self.steps for part in (step.text, step.quote and step.quote.text)
        ]
        return " ".join(part for part in parts if part)


def render_prompt(question: str, passages: Sequence[RenderedPassage]) -> list[dict[str, str]]:
    """The chat messages for a question with its passages, in their order."""
    lines = [render_document(number, passage) for number, passage in enumerate(passages, start=1)]
    lines.append(f"Question: {escape(fold(question))}")
    return [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": "\n".join(lines)},
    ]


def render_document(number: int, passage: RenderedPassage) -> str:
    """One passage under its number."""
    title = escape(fold(passage.title)).replace('"', "'")
    return f'<document id="{number}" title="{title}">\n{escape(passage.text)}\n</document>'


def render_target(row: RaftRow) -> str:
    """What the model is to answer to `render_prompt(row.question, row.context)`."""
    numbers = {passage.chunk_id: number for number, passage in enumerate(row.context, start=1)}
    parts = []
    for step in row.reasoning:
        if step.text:
            parts.append(escape(step.text))
        if step.quote is not None:
            number = numbers[step.quote.chunk_id]
            parts.append(f'<quote doc="{number}">{escape(step.quote.text)}</quote>')
    answer = f"<answer>{escape(row.final_answer)}</answer>"
    return f"{' '.join(parts)}\n{answer}" if parts else answer


def parse_answer(text: str, passages: Sequence[object]) -> ParsedAnswer:
    """Read a model's output, whatever it is.

    A quote or answer that is not closed ends at the next marker, or with the text. Of several
    answers the last one that is not empty counts; quotes inside an answer count as quotes.

    Args:
        text: the output.
        passages: the passages that were shown; only their number matters.
    """
    steps: list[ParsedStep] = []
    answers: list[str] = []
    number: int | None = None
    is_quote = is_answer = False
    pending = ""
    position = 0
    for tag in [*_TAG.finditer(text), None]:
        piece = text[position : tag.start() if tag else len(text)]
        if is_answer:
            answers[-1] += piece
        if is_quote and piece.strip():
            quote = CitedQuote(unescape(piece).strip(), number)
            steps.append(ParsedStep(unescape(pending).strip(), quote))
            pending = ""
        elif not is_answer:
            pending += piece
        if tag is None:
            break
        position, is_open = tag.end(), not tag["close"]
        if tag["name"].lower() == "quote":
            is_quote, number = is_open, _passage_number(tag["attributes"], len(passages))
        else:
            is_quote, is_answer = False, is_open
            if is_open:
                answers.append("")
    if pending.strip():
        steps.append(ParsedStep(unescape(pending).strip()))
    finals = [final for answer in answers if (final := unescape(answer).strip())]
    final_answer = finals[-1] if finals else None
    return ParsedAnswer(
        steps=tuple(steps),
        final_answer=final_answer,
        is_refusal=final_answer is not None and _bare(final_answer) == _bare(REFUSAL_ANSWER),
    )


def _passage_number(attributes: str, num_passages: int) -> int | None:
    match = _NUMBER.search(attributes)
    number = int(match[1]) if match else 0
    return number if 1 <= number <= num_passages else None


def _bare(text: str) -> str:
    """Letters and digits only, for comparing sentences."""
    return _NOT_WORD.sub(" ", text).strip().casefold()
