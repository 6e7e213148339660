"""A question on its way to become a row, and what may stop it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.raft.quotes import QuotablePassage
from pipeline_lib.raft.rows import Quote, ReasoningStep, Split
from pipeline_lib.retrieval.search import Hit


@dataclass(frozen=True, kw_only=True)
class Topic:
    """What a teacher is to ask about."""

    split: Split
    chunks: tuple[Chunk, ...]
    """One passage; two for comparison and multi-hop. All of documents of `split`."""
    kind: str = "factual"
    style: str = "plain"
    span: tuple[int, int] | None = None
    """The sentence of the (only) chunk that an extractive writer asks about."""


@dataclass(frozen=True)
class Written:
    """An answer with the reasoning that leads to it. A refusal has neither steps nor quotes."""

    steps: tuple[ReasoningStep, ...]
    final_answer: str

    @property
    def quotes(self) -> tuple[Quote, ...]:
        """The verified quotes, in order."""
        return tuple(step.quote for step in self.steps if step.quote is not None)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A question; each step of the funnel gives copies with more filled in."""

    topic: Topic
    question: str
    known_answer: str | None = None
    """What the answer is to be, where somebody knows."""
    evidence: tuple[Quote, ...] = ()
    """Where a known answer is supported."""
    hits: tuple[Hit, ...] = ()
    """What retrieval finds for the question, best first."""
    written: Written | None = None
    source: Literal["teacher", "user"] = "teacher"
    """Who brought the question (and the known answer)."""
    origin: str = ""
    """Where a user's question stands, for rejects: `line 12`."""

    @property
    def is_answerable(self) -> bool:
        """Whether the corpus is to answer it."""
        return self.topic.kind != "unanswerable"

    @property
    def oracles(self) -> tuple[Chunk, ...]:
        """The passages that answer together; none for an unanswerable question."""
        return self.topic.chunks if self.is_answerable else ()


@dataclass(frozen=True)
class Rejection:
    """Why a candidate did not pass."""

    step: str
    """The step of the funnel, such as `question` or `quotes`."""
    reason: str
    """Short and machine-readable."""
    text: str = ""
    """What was generated or found instead."""


class Gate(Protocol):
    """One test that candidates must pass."""

    step: str
    """Its step of the funnel."""

    def check(self, candidates: Sequence[Candidate]) -> list[Rejection | None]:
        """For each candidate why it fails, or `None`; in order."""


class Writer(Protocol):
    """Makes a teacher ask and answer in the way that suits it."""

    prompt_version: str
    """Changes whenever what it says to the teacher does."""
    topics_per_row: float
    """How many topics to ask about for each row wanted, so that few rounds suffice."""

    def topics(self, chunk: Chunk, split: Split) -> list[Topic]:
        """What can be asked about a single passage; empty for one that is unfit."""

    def num_candidates(self, topic: Topic) -> int:
        """How many questions `ask` makes of a topic at most."""

    def ask(self, topics: Sequence[Topic]) -> list[Candidate | tuple[Candidate, Rejection]]:
        """Candidate questions about each topic; with the reason those that cannot be used."""

    def answer(self, candidates: Sequence[Candidate]) -> list[Written | Rejection]:
        """An answer to each question, from its topic's passages alone.

        Where `known_answer` is set it is what the reasoning must lead to. Every quote is verified;
        rejections are of the steps `answer` (what it says), `quotes` or `reasoning`.
        """


def quote_of(passage: QuotablePassage, start: int, end: int) -> Quote:
    """The quote of a passage's span."""
    return Quote(chunk_id=passage.chunk_id, start=start, end=end, text=passage.text[start:end])
