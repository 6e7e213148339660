"""Approvals: about one dataset, and kept."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import httpx
import pytest

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.errors import ArtifactCorruptError
from pipeline_lib.raft.review.approvals import Approval, last_approval, record_approval
from pipeline_lib.raft.review.sample import draw_sample
from pipeline_lib.raft.review.sharing import share_page
from pipeline_lib.raft.rows import RaftRow
from pipeline_lib.stage import Workspace

REF = ArtifactRef(kind="dataset", name="docs", fingerprint="a" * 32)
OTHER = ArtifactRef(kind="dataset", name="docs", fingerprint="b" * 32)


def approval(dataset: ArtifactRef, is_approved: bool, day: int) -> Approval:
    decided_at = datetime(2026, 3, day, tzinfo=UTC)
    return Approval(dataset=dataset, is_approved=is_approved, decided_at=decided_at)


def test_the_last_decision_about_this_very_dataset_counts(workspace: Workspace) -> None:
    assert last_approval(workspace, REF) is None
    yes, no = approval(REF, True, 1), approval(REF, False, 2)
    record_approval(workspace, no)
    record_approval(workspace, yes)
    assert last_approval(workspace, REF) == no
    assert last_approval(workspace, OTHER) is None
    again = approval(REF, True, 3)
    record_approval(workspace, again)
    assert last_approval(workspace, REF) == again


def test_a_damaged_record_is_an_error_that_names_it(workspace: Workspace) -> None:
    workspace.artifacts.objects.put_bytes("_state/review/docs/approvals.json", b'{"format": 9}')
    with pytest.raises(ArtifactCorruptError, match=r"docs/approvals\.json cannot be read: format"):
        last_approval(workspace, REF)


def test_a_shared_page_opens_in_a_browser_without_credentials(
    workspace: Workspace, row: Callable[..., RaftRow], publish_rows: Callable[..., ArtifactRef]
) -> None:
    ref = publish_rows([row(0)])
    sample = draw_sample(workspace, ref, num_rows=1)
    address = share_page(workspace, sample, valid_seconds=10**9)
    response = httpx.get(address)
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert ref.key in response.text
