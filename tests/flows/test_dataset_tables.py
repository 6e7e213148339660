"""The tables that synthesis leaves in the UI, and the sample that an approver reads."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import PriceConfig
from pipeline_lib.generation.base import Completion
from pipeline_lib.generation.ledger import Ledger
from pipeline_lib.raft.funnel import RejectSample
from pipeline_lib.raft.review.approvals import Approval
from pipeline_lib.raft.review.sample import ReviewPassage, ReviewRow
from tasks.approval import Pending, rejection_message, sample_markdown
from tasks.presentation import ledger_table, rejects_table

REF = ArtifactRef(kind="dataset", name="docs", fingerprint="0123456789abcdef" * 2)
SAMPLE = RejectSample(
    stage="quotes",
    reason="not_verbatim",
    num_rejects=1234,
    question="Why?",
    chunk_id="chunk",
    document_id="doc",
    kind="how_why",
    text="two\n lines",
)


def test_a_few_rejects_of_each_reason_are_shown() -> None:
    many = [replace(SAMPLE, question=f"Why {number}?") for number in range(5)]
    table = rejects_table([*many, replace(SAMPLE, reason="truncated", text="x" * 500)])
    assert [row["Question"] for row in table] == ["Why 0?", "Why 1?", "Why 2?", "Why?"]
    assert table[0] == {
        "Step": "quotes",
        "Reason": "not verbatim",
        "Rejected": 1234,
        "Question": "Why 0?",
        "Found": "two lines",
        "Kind": "how why",
    }
    assert len(str(table[-1]["Found"])) == 240


def test_the_ledger_has_a_line_for_each_step_and_their_sum() -> None:
    ledger = Ledger(PriceConfig(input_per_million=1.0, output_per_million=2.0))
    done = Completion("text", 1000, 500, "stop")
    for step, is_new in (("ask", True), ("ask", False), ("answer", False)):
        ledger.count(step, "big-model", done, is_new=is_new)
    table = ledger_table(ledger.as_records())
    assert [row["Step"] for row in table] == ["ask", "answer", "total"]
    assert [row["Completions"] for row in table] == ["2 (1)", "1 (0)", "3 (1)"]
    assert [row["Prompt tokens"] for row in table] == ["2,000", "1,000", "3,000"]
    assert [row["Cost"] for row in table] == ["0.004 (0.002)", "0.002 (0)", "0.006 (0.002)"]
    assert table[0]["Scores"] == ""


def test_one_step_needs_no_sum() -> None:
    ledger = Ledger(PriceConfig())
    ledger.count("ask", "m", Completion("text", 10, 5, "stop"), is_new=True)
    assert len(ledger_table(ledger.as_records())) == 1
    assert ledger_table([]) == []


@pytest.fixture
def reviewed(make_flow_row: Any) -> ReviewRow:
    row = make_flow_row(0)
    passages = tuple(
        ReviewPassage(
            chunk_id=passage.chunk_id,
            number=1,
            is_oracle=True,
            title="Otters <b>",
            text=passage.text,
            origin="oracle",
            change="",
            source_uri="",
        )
        for passage in row.context
    )
    return ReviewRow(row=row, passages=passages, verdict=None)


def test_the_approver_reads_rows_whose_text_is_no_markdown(reviewed: ReviewRow) -> None:
    pending = Pending(page="https://s3/review.html", before=None)
    text = sample_markdown(REF, [reviewed] * 12, 4210, pending, notice="The budget is *spent*.")
    assert "**[Open the review page](https://s3/review.html)**: 12 of 4,210 rows" in text
    assert r"### What does \[otter 0\]\(javascript:alert\) eat?" in text
    assert r"Otters \<b\>" in text
    assert r"**This dataset is partial.** The budget is \*spent\*\." in text
    assert text.count("### ") == 10
    assert text.endswith("… and 2 more on the page.")


def test_an_earlier_rejection_is_told_with_its_reason(reviewed: ReviewRow) -> None:
    before = Approval(
        dataset=REF,
        is_approved=False,
        reviewer="Ada",
        comment="too many dates",
        decided_at=datetime(2026, 3, 1, tzinfo=UTC),
    )
    text = sample_markdown(REF, [reviewed], 1, Pending(page="https://s3/p", before=before))
    assert "It was rejected by Ada on 2026-03-01: too many dates." in text
    assert rejection_message(before) == (
        f"{REF} was rejected by Ada on 2026-03-01: too many dates. Nothing was trained. Import "
        "verdicts or change the configuration, and run it again."
    )
