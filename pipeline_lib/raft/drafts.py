"""What passes between asking, answering and assembling rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.raft.facts import Fact
from pipeline_lib.raft.rows import Quote, ReasoningStep, Split
from pipeline_lib.retrieval.search import Hit


@dataclass(frozen=True)
class Asked:
    """A question that a teacher was made to ask."""

    fact: Fact
    """What it was asked about: a sentence, or a whole passage."""
    question: str
    problem: str | None = None
    """Why it cannot be used."""


@dataclass(frozen=True)
class KnownAnswer:
    """A question with its answer, and where the answer is supported."""

    question: str
    final_answer: str
    oracle: Chunk
    evidence: tuple[Quote, ...]


@dataclass(frozen=True)
class Written:
    """An answer with the reasoning that leads to it."""

    steps: tuple[ReasoningStep, ...]
    final_answer: str


@dataclass(frozen=True)
class Failure:
    """Why something did not pass a step of the funnel."""

    stage: str
    reason: str
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A row without its context."""

    split: Split
    question: str
    oracle: Chunk
    written: Written
    hits: tuple[Hit, ...]
    """What retrieval finds for the question, best first."""
    source: Literal["teacher", "user"]
    """Who brought the question and its answer."""


class Writer(Protocol):
    """Makes a teacher ask and answer in the way that suits it."""

    prompt_version: str
    """Changes whenever the prompts do."""
    facts_per_row: float
    """How many facts to ask about for each row wanted, so that few rounds suffice."""

    def facts(self, chunk: Chunk) -> list[Fact]:
        """What can be asked about in a passage; empty for one that is unfit."""

    def num_candidates(self, fact: Fact) -> int:
        """How many questions `ask` makes of a fact."""

    def ask(self, facts: Sequence[Fact]) -> list[Asked]:
        """Candidate questions about each fact."""

    def answer(self, asked: Sequence[Asked]) -> list[Written | Failure]:
        """An answer to each question; failures are of the stage `answer` or `reasoning`."""

    def explain(self, known: Sequence[KnownAnswer]) -> list[Written | None]:
        """The reasoning that leads to each known answer; `None` where no good one was written."""


def quote_of(chunk: Chunk, start: int, end: int) -> Quote:
    """The quote of a chunk's span."""
    return Quote(chunk_id=chunk.chunk_id, start=start, end=end, text=chunk.text[start:end])
