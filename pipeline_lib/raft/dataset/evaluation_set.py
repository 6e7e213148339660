"""The test questions, frozen: what evaluations are compared on while the corpus grows.

A question, its answer and the text that proves it are the evaluation set; its fingerprint is over
these, whatever passages the corpus is cut into. A new dataset takes the questions of the one before
over. Where a document is cut anew, evidence is found again by its place in the document, and where
the document changed, by its words; such a row gets a new context. What cannot be found is counted,
with its reason.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pipeline_lib.artifacts.manifest import canonical_json
from pipeline_lib.corpus.schema import Chunk, Corpus, chunk_from_row
from pipeline_lib.raft.candidates import Rejection
from pipeline_lib.raft.contexts.drafting import Remapped
from pipeline_lib.raft.dataset.previous import PreviousDataset
from pipeline_lib.raft.dataset.remapping import find_again
from pipeline_lib.raft.dataset.standing import asked_about
from pipeline_lib.raft.quotes import fold
from pipeline_lib.raft.rows import Quote, RaftRow, ReasoningStep, Split

EVALUATION_SET_FILE = "evaluation_set.json"
STEP = "evaluation_set"
"""The step of the funnel at which a question of the dataset before is lost."""
_LENGTH = 32
_SHOWN_LOST = 200
_SHOWN_CHARS = 500


def question_fingerprint(row: RaftRow) -> str:
    """Hash of a row's question, answer and evidence, independent of chunks and contexts.

    Evidence is the quotes, white space folded: where a text is cut does not count.
    """
    evidence = sorted({fold(quote.text) for quote in row.quotes})
    return _hash([fold(row.question), fold(row.final_answer), row.source_document_id, evidence])


def evaluation_set_fingerprint(rows: Iterable[RaftRow]) -> str:
    """Hash of the questions of a test split, in whatever order they come."""
    return _hash(sorted({question_fingerprint(row) for row in rows}))


@dataclass(frozen=True)
class KeptQuestions:
    """What becomes of the test questions of the dataset before."""

    taken_from: str
    """Reference of that dataset."""
    unchanged: tuple[RaftRow, ...]
    """As they were, byte for byte."""
    remapped: tuple[Remapped, ...]
    """With their evidence in passages of the new corpus; without hits, for
    `ContextBuilder.redraw`."""
    lost: tuple[tuple[RaftRow, Rejection], ...]
    """Reasons: `document_deleted`, `split_changed`, `quote_not_found`, `passage_not_found`."""


def keep_questions(
    previous: PreviousDataset,
    corpus: Corpus,
    split_of: Mapping[str, Split],
    *,
    redraw_all: bool = False,
) -> KeptQuestions:
    """Take the test questions over, whatever prompts, teacher and seed are now.

    Args:
        previous: the dataset before.
        corpus: the new one.
        split_of: the new plan.
        redraw_all: give all of them new contexts, as contexts are configured otherwise now.
    """
    standing = previous.standing(corpus, split_of)
    unchanged: list[RaftRow] = []
    to_find: list[RaftRow] = []
    lost: list[tuple[RaftRow, Rejection]] = []
    for row in previous.rows("test"):
        problem = standing.problem(row)
        if problem in ("document_deleted", "split_changed"):
            lost.append((row, Rejection(STEP, problem, row.source_document_id)))
        elif problem is not None or redraw_all:
            to_find.append(row)
        else:
            unchanged.append(row)
    remapped: list[Remapped] = []
    passages = _Passages(previous, corpus, to_find)
    for row in to_find:
        found = passages.remap(row)
        if isinstance(found, Rejection):
            lost.append((row, found))
        else:
            remapped.append(found)
    return KeptQuestions(previous.ref.key, tuple(unchanged), tuple(remapped), tuple(lost))


class _Passages:
    """The passages that questions are about, as they were, and their documents' as they are."""

    def __init__(self, previous: PreviousDataset, corpus: Corpus, rows: Sequence[RaftRow]) -> None:
        wanted = {chunk for row in rows for chunk in asked_about(row)}
        self._before = {
            record["chunk_id"]: chunk_from_row(record)
            for record in (previous.chunk_rows() if wanted else ())
            if record["chunk_id"] in wanted
        }
        documents = {chunk.document_id for chunk in self._before.values()}
        self._now: dict[str, list[Chunk]] = defaultdict(list)
        for chunk in corpus.chunks:
            if chunk.document_id in documents:
                self._now[chunk.document_id].append(chunk)

    def remap(self, row: RaftRow) -> Remapped | Rejection:
        """The row's evidence where it is now."""
        chunks: dict[str, Chunk] = {}
        places: dict[Quote, Quote] = {}
        for chunk_id in asked_about(row):
            before = self._before[chunk_id]
            quotes = [quote for quote in row.quotes if quote.chunk_id == chunk_id]
            found = find_again(before, quotes, self._now[before.document_id])
            if isinstance(found, str):
                reason = "quote_not_found" if quotes else "passage_not_found"
                return Rejection(STEP, reason, found)
            chunks |= {each.chunk.chunk_id: each.chunk for each in found}
            places |= {each.quote: each.as_quote() for each in found if each.quote is not None}
        if not chunks:
            return Rejection(STEP, "passage_not_found")
        reasoning = tuple(
            ReasoningStep(text=step.text, quote=step.quote and places[step.quote])
            for step in row.reasoning
        )
        return Remapped(row=row, chunks=tuple(chunks.values()), reasoning=reasoning)


class LostQuestion(BaseModel):
    """A question of the dataset before that this one does not ask."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str
    reason: str
    detail: str = ""


class EvaluationSet(BaseModel):
    """What `EVALUATION_SET_FILE` says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: str
    """Equal for equal questions, answers and evidence."""
    num_questions: int
    taken_from: str = ""
    """The dataset that questions were taken over from; empty: all are new."""
    num_unchanged: int = 0
    """Taken over as they were, context included."""
    num_remapped: int = 0
    """Taken over with a new context."""
    num_new: int = 0
    num_lost: int = 0
    lost: dict[str, int] = {}
    """Reason to count; `left_out` are those that had their evidence but got no row."""
    lost_questions: tuple[LostQuestion, ...] = ()
    """The first of them."""

    def write(self, directory: Path) -> None:
        """Write the file."""
        (directory / EVALUATION_SET_FILE).write_text(self.model_dump_json(indent=1) + "\n")

    @classmethod
    def read(cls, directory: Path) -> EvaluationSet:
        """Read the file."""
        return cls.model_validate_json((directory / EVALUATION_SET_FILE).read_bytes())


def describe_evaluation_set(
    rows: Iterable[RaftRow], kept: KeptQuestions | None = None
) -> EvaluationSet:
    """The record of a finished test split.

    Args:
        rows: of the test split, all of them.
        kept: what was to be taken over.
    """
    asked = {question_fingerprint(row) for row in rows}
    if kept is None:
        return EvaluationSet(
            fingerprint=_hash(sorted(asked)), num_questions=len(asked), num_new=len(asked)
        )
    unchanged = {question_fingerprint(row): row for row in kept.unchanged}
    remapped = {question_fingerprint(each.row): each.row for each in kept.remapped}
    left_out = [row for key, row in (unchanged | remapped).items() if key not in asked]
    lost = [
        *(_lost(row, why.reason, why.text) for row, why in kept.lost),
        *(_lost(row, "left_out") for row in left_out),
    ]
    return EvaluationSet(
        fingerprint=_hash(sorted(asked)),
        num_questions=len(asked),
        taken_from=kept.taken_from,
        num_unchanged=len(asked & unchanged.keys()),
        num_remapped=len(asked & remapped.keys()),
        num_new=len(asked - unchanged.keys() - remapped.keys()),
        num_lost=len(lost),
        lost=dict(sorted(Counter(each.reason for each in lost).items())),
        lost_questions=tuple(lost[:_SHOWN_LOST]),
    )


def _lost(row: RaftRow, reason: str, detail: str = "") -> LostQuestion:
    return LostQuestion(question=row.question, reason=reason, detail=detail[:_SHOWN_CHARS])


def _hash(parts: Sequence[object]) -> str:
    return hashlib.sha256(canonical_json(list(parts))).hexdigest()[:_LENGTH]
