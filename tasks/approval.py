"""The tasks around a person's approval of a dataset: what there is to see, and what was decided."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from prefect.artifacts import create_markdown_artifact
from pydantic import BaseModel, ConfigDict

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import ApprovalConfig
from pipeline_lib.raft.review.approvals import Approval, last_approval, record_approval
from pipeline_lib.raft.review.sample import ReviewRow, draw_sample
from pipeline_lib.raft.review.sharing import LONGEST_LINK_SECONDS, share_page
from pipeline_lib.raft.stage import PARTIAL_DETAIL
from tasks.presentation import show
from tasks.runtime import open_workspace, stage_task

_SHOWN_ROWS = 10
_SHOWN_CHARS = 600
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~&])")


class Pending(BaseModel):
    """A dataset that waits for a decision."""

    model_config = ConfigDict(frozen=True)

    page: str
    """Address of the review page; whoever has it can read the page until it expires."""
    before: Approval | None
    """An earlier decision, which was no."""


@stage_task(name="show for approval", description="A sample of the dataset, to be looked at.")
def show_for_approval(config: ApprovalConfig, dataset: ArtifactRef) -> Pending | None:
    """Show a sample as the artifact `<name>-approval`; `None` when the dataset is approved."""
    with open_workspace() as ws:
        before = last_approval(ws, dataset)
        if before is not None and before.is_approved:
            return None
        sample = draw_sample(ws, dataset, num_rows=config.num_rows, with_reviewed=True)
        page = share_page(
            ws, sample, valid_seconds=min(int(config.timeout_hours * 3600), LONGEST_LINK_SECONDS)
        )
        notice = str(ws.artifacts.manifest(dataset).details.get(PARTIAL_DETAIL, ""))
    pending = Pending(page=page, before=before)
    show(
        create_markdown_artifact,
        key=f"{dataset.name}-approval",
        markdown=sample_markdown(dataset, sample.rows, sample.num_eligible, pending, notice),
        description=f"A sample of `{dataset}`, which waits for approval",
    )
    return pending


@stage_task(name="record approval", description="Keeps what was decided about the dataset.")
def record_decision(
    dataset: ArtifactRef, *, is_approved: bool, reviewer: str, comment: str, flow_run: str
) -> Approval:
    """Record a decision; see `pipeline_lib.raft.review.approvals`."""
    approval = Approval(
        dataset=dataset,
        is_approved=is_approved,
        reviewer=reviewer.strip(),
        comment=comment.strip(),
        decided_at=datetime.now(UTC),
        flow_run=flow_run,
    )
    with open_workspace() as ws:
        record_approval(ws, approval)
    return approval


def sample_markdown(
    dataset: ArtifactRef,
    rows: Sequence[ReviewRow],
    num_eligible: int,
    pending: Pending,
    notice: str = "",
) -> str:
    """What the approver reads first: where the page is, and some rows of it."""
    parts = [
        f"# Approve `{dataset}`?",
        f"**[Open the review page]({pending.page})**: {len(rows)} of {num_eligible:,} rows, drawn "
        "at random, with their passages and quotes. Verdicts that you download there come into "
        f"force by `raftline review import verdicts.json --name {dataset.name}`.",
    ]
    if notice:
        parts.append(f"**This dataset is partial.** {_literal(notice)}")
    if pending.before is not None:
        parts.append(f"It was {_described(pending.before)}.")
    parts.append("Resume this run to decide: *approve* goes on to training, *reject* ends the run.")
    parts += [_row_markdown(each) for each in rows[:_SHOWN_ROWS]]
    if len(rows) > _SHOWN_ROWS:
        parts.append(f"… and {len(rows) - _SHOWN_ROWS:,} more on the page.")
    return "\n\n".join(parts)


def rejection_message(approval: Approval) -> str:
    """The last word of a run whose dataset was rejected."""
    return (
        f"{approval.dataset} was {_described(approval, is_plain=True)}. Nothing was trained. "
        "Import verdicts or change the configuration, and run it again."
    )


def _described(approval: Approval, *, is_plain: bool = False) -> str:
    """`rejected by Ada on 2026-03-01: too many dates`."""
    literal = str if is_plain else _literal
    by = f" by {literal(approval.reviewer)}" if approval.reviewer else ""
    why = f": {literal(approval.comment)}" if approval.comment else ""
    decided = "approved" if approval.is_approved else "rejected"
    return f"{decided}{by} on {approval.decided_at:%Y-%m-%d}{why}"


def _row_markdown(each: ReviewRow) -> str:
    row = each.row
    facts = [row.kind, row.split, f"target {row.target}"]
    titles = dict.fromkeys(passage.title for passage in each.passages if passage.is_oracle)
    lines = [f"### {_literal(row.question)}", _literal(row.final_answer)]
    lines += [f"> {_literal(quote.text)}" for quote in row.quotes]
    lines.append(f"*{_literal(' · '.join([*facts, *titles]))}*")
    return "\n\n".join(lines)


def _literal(text: str) -> str:
    """Text from documents as Markdown that shows it and does nothing else."""
    folded = " ".join(text.split())
    shown = folded if len(folded) <= _SHOWN_CHARS else f"{folded[: _SHOWN_CHARS - 1]}…"
    return _MARKDOWN.sub(r"\\\1", shown)
