"""What people decided about rows, and what it does to them.

A verdict names its row by `row_id`, which the same question about the same passages has in every
dataset. Where the passages were cut anew and the id is another, the same question about the same
document is meant. So a verdict is given once, however often the dataset is made again.

The log of all verdicts lies in S3, below `_state/review/<name>/`. Of several about one row the one
that was decided last holds, so files may be imported in any order and more than once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from pipeline_lib.artifacts.manifest import canonical_json
from pipeline_lib.raft.candidates import Rejection
from pipeline_lib.raft.quotes import fold
from pipeline_lib.raft.review.state import change_state, read_state, state_key
from pipeline_lib.raft.rows import RaftRow
from pipeline_lib.stage import Workspace

Decision = Literal["accept", "reject", "edit", "withdrawn"]
REVIEW_STEP = "review"
"""The funnel's step."""
REJECTED = "rejected_by_reviewer"
MAX_TEXT_LENGTH = 20_000
"""Characters of an edited answer or a comment."""
MAX_QUESTION_LENGTH = 4_000

_FILE = "verdicts.json"
_KEY_LENGTH = 32


class Verdict(BaseModel):
    """One person's decision about one row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    row_id: str = Field(min_length=1, max_length=128)
    question: str
    """As it was asked when the verdict was given, before any edit."""
    document_id: str
    """The row's `source_document_id`."""
    decision: Decision
    """`withdrawn`: an earlier verdict no longer holds."""
    edited_question: str = Field("", max_length=MAX_QUESTION_LENGTH)
    """What it is to be instead; empty: as it is."""
    edited_answer: str = Field("", max_length=MAX_TEXT_LENGTH)
    """What the final answer is to be instead; empty: as it is."""
    comment: str = Field("", max_length=MAX_TEXT_LENGTH)
    reviewer: str = Field("", max_length=200)
    decided_at: AwareDatetime

    @property
    def changes_rows(self) -> bool:
        """Whether a dataset with this verdict differs from one without."""
        return self.decision in ("reject", "edit")


class _Log(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    verdicts: tuple[Verdict, ...] = ()


class Verdicts:
    """The verdicts that hold, one per row at most.

    Args:
        log: all that were given, in any order.
    """

    def __init__(self, log: Iterable[Verdict] = ()) -> None:
        latest = _latest(log)
        self._by_id = {key: v for key, v in latest.items() if v.decision != "withdrawn"}
        holding = sorted(self._by_id.values(), key=_age)
        self.withdrawn_documents = frozenset(
            v.document_id for v in latest.values() if v.decision == "withdrawn"
        )
        """Documents about which a verdict no longer holds: a row that was rejected may come back.
        """
        self._by_question = {_question_key(v.document_id, v.question): v for v in holding}

    @classmethod
    def load(cls, ws: Workspace, name: str) -> Verdicts:
        """The verdicts about a pipeline's rows; none where nobody has reviewed any.

        Raises:
            ArtifactCorruptError: the log cannot be read.
        """
        return cls(verdict_log(ws, name))

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Verdict]:
        return iter(self._by_id.values())

    @property
    def sha256(self) -> str:
        """Hash of what changes rows: no comment and no `accept` has a dataset made again."""
        effects = sorted(
            [v.row_id, v.document_id, v.question, v.decision, v.edited_question, v.edited_answer]
            for v in self
            if v.changes_rows
        )
        return hashlib.sha256(canonical_json(effects)).hexdigest()

    def find(self, row: RaftRow) -> Verdict | None:
        """The verdict about a row: by its id, else by its question and document."""
        return self.find_by(row.row_id, row.source_document_id, row.question)

    def find_by(self, row_id: str, document_id: str, question: str) -> Verdict | None:
        """As `find`, for a row of which only so much was read."""
        by_question = _question_key(document_id, question)
        return self._by_id.get(row_id) or self._by_question.get(by_question)

    def apply(self, row: RaftRow) -> RaftRow | Rejection:
        """What a row of the task `answer` becomes: itself, an edited copy, or a rejection.

        An edited row keeps its `row_id`, so that the verdict finds it again, and has a `row_key` of
        its own. A row that teaches to refuse keeps its answer whatever an edit says: the edit was
        made where the answer was to be seen. Applying twice is applying once.
        """
        verdict = self.find(row)
        if verdict is None or not verdict.changes_rows:
            return row
        if verdict.decision == "reject":
            return Rejection(REVIEW_STEP, REJECTED, verdict.comment or row.final_answer)
        question = verdict.edited_question or row.question
        answer = row.final_answer if row.target == "refuse" else verdict.edited_answer
        return _edited(row, question, answer or row.final_answer)


def verdict_log(ws: Workspace, name: str) -> tuple[Verdict, ...]:
    """All verdicts ever given, oldest first.

    Raises:
        ArtifactCorruptError: the log cannot be read.
    """
    return read_state(ws, state_key(name, _FILE), _Log()).verdicts


def record_verdicts(ws: Workspace, name: str, verdicts: Iterable[Verdict]) -> int:
    """Add verdicts to the log and return how many were new.

    One that says what is in force already is not; a time in the future becomes now, so that no
    wrong clock outvotes what others decide later.

    Raises:
        ArtifactCorruptError: the log cannot be read.
        StoreError: it cannot be written.
    """
    now = datetime.now(UTC)
    given = [v.model_copy(update={"decided_at": min(v.decided_at, now)}) for v in verdicts]
    added: list[Verdict] = []

    def change(log: _Log) -> _Log | None:
        added[:] = _new(log.verdicts, given)
        return _Log(verdicts=tuple(sorted([*log.verdicts, *added], key=_age))) if added else None

    change_state(ws, state_key(name, _FILE), _Log(), change)
    return len(added)


def _new(log: Sequence[Verdict], given: Iterable[Verdict]) -> list[Verdict]:
    known = {_identity(verdict, with_time=True) for verdict in log}
    latest = _latest(log)
    added = []
    for verdict in sorted(given, key=_age):
        before = latest.get(verdict.row_id)
        if _identity(verdict, with_time=True) in known:
            continue
        if before is None and verdict.decision == "withdrawn":
            continue
        if before is not None and _identity(before) == _identity(verdict):
            continue
        added.append(verdict)
        if before is None or _age(before) <= _age(verdict):
            latest[verdict.row_id] = verdict
    return added


def _latest(log: Iterable[Verdict]) -> dict[str, Verdict]:
    """The last verdict about each row."""
    return {verdict.row_id: verdict for verdict in sorted(log, key=_age)}


def _age(verdict: Verdict) -> tuple[datetime, str]:
    """Oldest first; equal times, too, give the same order in every log."""
    return verdict.decided_at, verdict.model_dump_json()


def _identity(verdict: Verdict, *, with_time: bool = False) -> str:
    return verdict.model_dump_json(exclude=None if with_time else {"decided_at"})


def _question_key(document_id: str, question: str) -> tuple[str, str]:
    return document_id, fold(question).casefold()


def _edited(row: RaftRow, question: str, answer: str) -> RaftRow:
    if (question, answer) == (row.question, row.final_answer):
        return row
    sources = {}
    if question != row.question:
        sources["question_source"] = "reviewer"
    if answer != row.final_answer:
        sources["answer_source"] = "reviewer"
    key = hashlib.sha256(canonical_json([row.row_key, question, answer])).hexdigest()
    return row.model_copy(
        update={
            "row_key": key[:_KEY_LENGTH],
            "question": question,
            "final_answer": answer,
            "provenance": row.provenance.model_copy(update=sources),
        }
    )
