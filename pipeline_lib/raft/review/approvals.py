"""Whether people want a dataset to be trained on.

Approvals lie beside the verdicts, below `_state/review/<name>/`. They are about one dataset, by its
fingerprint: one that was made anew has to be approved anew, one that is reused has not.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.raft.review.state import change_state, read_state, state_key
from pipeline_lib.stage import Workspace

_FILE = "approvals.json"


class Approval(BaseModel):
    """One decision about one dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: ArtifactRef
    is_approved: bool
    reviewer: str = ""
    comment: str = ""
    decided_at: AwareDatetime
    flow_run: str = ""
    """The run that asked; for following it up in the UI."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    approvals: tuple[Approval, ...] = ()


def record_approval(ws: Workspace, approval: Approval) -> None:
    """Keep a decision; decisions before it stay in the record.

    Raises:
        ArtifactCorruptError: the record cannot be read.
        StoreError: it cannot be written.
    """

    def change(record: _Record) -> _Record:
        return _Record(approvals=tuple(sorted([*record.approvals, approval], key=_age)))

    change_state(ws, state_key(approval.dataset.name, _FILE), _Record(), change)


def last_approval(ws: Workspace, dataset: ArtifactRef) -> Approval | None:
    """The last decision about a dataset, `None` when nobody was asked yet.

    Raises:
        ArtifactCorruptError: the record cannot be read.
    """
    record = read_state(ws, state_key(dataset.name, _FILE), _Record())
    about = [approval for approval in record.approvals if approval.dataset == dataset]
    return max(about, key=_age, default=None)


def _age(approval: Approval) -> datetime:
    return approval.decided_at
