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

Rows of other tasks show documents and question in the same way under a system prompt of their own,
and their targets use the same two markers:

    refusal       as an answer, from documents that hold none
    quotes        <quote doc="2">…</quote> <quote doc="1">…</quote>
    relevance     <answer>1, 3</answer>, or <answer>none</answer>
    ranking       <answer>3, 1, 2</answer>, best first
    closed_book   <answer>the answer</answer>, without any document
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline_lib.raft.markup import escape, unescape
from pipeline_lib.raft.quotes import fold
from pipeline_lib.raft.rows import Passage, RaftRow, Task

FORMAT_VERSION = 1
"""Raised when the same row would be rendered, or the same text parsed, differently."""

REFUSAL_ANSWER = "The documents do not contain the answer."
NO_PASSAGE = "none"
"""What stands for the numbers where no passage answers."""

SYSTEM_PROMPT = (
    "Answer the question from the documents. First reason briefly and quote the words that prove "
    'the answer: <quote doc="1">exact words of document 1</quote>. Then give the short answer: '
    f"<answer>…</answer>. If no document holds it, write <answer>{REFUSAL_ANSWER}</answer>"
)

SYSTEM_PROMPTS: Mapping[Task, str] = {
    "answer": SYSTEM_PROMPT,
    "refusal": SYSTEM_PROMPT,
    "relevance": (
        "Which documents answer the question? Give their numbers: <answer>1, 3</answer>. If none "
        f"does, write <answer>{NO_PASSAGE}</answer>"
    ),
    "ranking": (
        "Order the documents by how well they answer the question. Give all their numbers, the "
        "best first: <answer>2, 3, 1</answer>"
    ),
    "quotes": (
        "Quote from the documents the words that prove the answer to the question: "
        '<quote doc="1">exact words of document 1</quote>. Write nothing else.'
    ),
    "closed_book": (
        "Answer the question from what you know. Give only the short answer: <answer>…</answer>"
    ),
}

_MAX_NUMBER_DIGITS = 6
_TAG = re.compile(r"<(?P<close>/?)(?P<name>quote|answer)\b(?P<attributes>[^<>]*)>", re.IGNORECASE)
_NUMBER = re.compile(rf"\bdoc\s*=\s*[\"']?\s*(\d{{1,{_MAX_NUMBER_DIGITS}}})\b", re.IGNORECASE)
_PASSAGE_NUMBER = re.compile(rf"(?<!\d)\d{{1,{_MAX_NUMBER_DIGITS}}}(?!\d)")
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


def render_prompt(
    question: str, passages: Sequence[RenderedPassage], task: Task = "answer"
) -> list[dict[str, str]]:
    """The chat messages for a question with its passages, in their order."""
    lines = [render_document(number, passage) for number, passage in enumerate(passages, start=1)]
    lines.append(f"Question: {escape(fold(question))}")
    return [
        {"role": "system", "content": SYSTEM_PROMPTS[task]},
        {"role": "user", "content": "\n".join(lines)},
    ]


def render_row_prompt(row: RaftRow) -> list[dict[str, str]]:
    """The chat messages of a row, as its task asks them."""
    return render_prompt(row.question, row.context, row.task)


def render_document(number: int, passage: RenderedPassage) -> str:
    """One passage under its number."""
    title = escape(fold(passage.title)).replace('"', "'")
    return f'<document id="{number}" title="{title}">\n{escape(passage.text)}\n</document>'


def render_target(row: RaftRow) -> str:
    """What the model is to answer to `render_row_prompt(row)`."""
    if row.task == "quotes":
        return " ".join(_quote(step.quote) for step in cited_steps(row) if step.quote)
    if row.task == "relevance":
        return _listed(row, oracles_of(row))
    if row.task == "ranking":
        return _listed(row, ranked_passages(row))
    return render_answer(cited_steps(row), row.final_answer)


def render_answer(steps: Sequence[ParsedStep], final_answer: str) -> str:
    """What `parse_answer` reads as these steps and this answer."""
    parts = []
    for step in steps:
        if step.text:
            parts.append(escape(step.text))
        if step.quote is not None:
            parts.append(_quote(step.quote))
    answer = f"<answer>{escape(final_answer)}</answer>"
    return f"{' '.join(parts)}\n{answer}" if parts else answer


def cited_steps(row: RaftRow) -> list[ParsedStep]:
    """A row's reasoning, its quotes by the number of their passage in its context."""
    numbers = _numbers(row)
    steps = []
    for step in row.reasoning:
        quote = step.quote
        cited = None if quote is None else CitedQuote(quote.text, numbers[quote.chunk_id])
        steps.append(ParsedStep(step.text, cited))
    return steps


def oracles_of(row: RaftRow) -> list[Passage]:
    """The oracle passages of a row's context, in the context's order."""
    return [passage for passage in row.context if passage.role == "oracle"]


def ranked_passages(row: RaftRow) -> list[Passage]:
    """A row's context by relevance: its oracles, then the others by rank; unranked ones last."""
    return sorted(row.context, key=lambda p: (p.role != "oracle", p.rank is None, p.rank or 0))


def _quote(quote: CitedQuote) -> str:
    cited = "" if quote.passage_number is None else f' doc="{quote.passage_number}"'
    return f"<quote{cited}>{escape(quote.text)}</quote>"


def _listed(row: RaftRow, passages: Sequence[Passage]) -> str:
    """The numbers of some of a row's passages, as an answer."""
    numbers = _numbers(row)
    listed = ", ".join(str(numbers[passage.chunk_id]) for passage in passages)
    return f"<answer>{listed or NO_PASSAGE}</answer>"


def _numbers(row: RaftRow) -> dict[str, int]:
    return {passage.chunk_id: number for number, passage in enumerate(row.context, start=1)}


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


def parse_passage_numbers(text: str, passages: Sequence[object]) -> tuple[int, ...] | None:
    """Read the output of the tasks `relevance` and `ranking`, whatever it is.

    Args:
        text: the output; numbers outside the answer's marker count only where there is none.
        passages: the passages that were shown; only their number matters.

    Returns:
        Numbers of passages there are, each once, in the order given; empty when the output says
        that none answers; `None` when it says neither.
    """
    answer = parse_answer(text, passages).final_answer
    said = text if answer is None else answer
    found = [int(match.group()) for match in _PASSAGE_NUMBER.finditer(said)]
    numbers = tuple(dict.fromkeys(n for n in found if 1 <= n <= len(passages)))
    return numbers if numbers or _bare(said) == NO_PASSAGE else None


def _passage_number(attributes: str, num_passages: int) -> int | None:
    match = _NUMBER.search(attributes)
    number = int(match[1]) if match else 0
    return number if 1 <= number <= num_passages else None


def _bare(text: str) -> str:
    """Letters and digits only, for comparing sentences."""
    return _NOT_WORD.sub(" ", text).strip().casefold()
