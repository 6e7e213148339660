"""Stages that publish real artifacts at once, so that flows can run whole without models."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import pytest

from pipeline_lib.artifacts.manifest import ArtifactKind
from pipeline_lib.evaluation.records import Comparison, EvaluationSummary
from pipeline_lib.evaluation.statistics import Estimate
from pipeline_lib.progress import phase
from pipeline_lib.raft.funnel import RejectSample
from pipeline_lib.raft.rows import SPLITS, RaftRow, split_file, write_rows
from pipeline_lib.stage import ArtifactDraft, StageResult, Workspace, run_stage
from tests.raft.made_rows import bare_row

FUNNEL = {
    "steps": [
        {"name": "generated", "kept": 12, "dropped": {}},
        {"name": "round_trip", "kept": 9, "dropped": {"not_retrieved": 3}},
    ],
    "num_candidates": 12,
    "num_rows": 9,
}

REJECT = RejectSample(
    stage="round_trip",
    reason="not_retrieved",
    num_rejects=3,
    question="What | is it?",
    chunk_id="chunk-0",
    document_id="doc-0",
    kind="how_why",
    text="",
)
LEDGER = {
    "step": "ask",
    "model": "scripted:1",
    "num_completions": 1200,
    "num_new_completions": 20,
    "num_scored_targets": 0,
    "num_new_scores": 0,
    "prompt_tokens": 34_000,
    "cached_tokens": 0,
    "completion_tokens": 560,
    "waiting_seconds": 1.25,
    "cost": 0.15,
    "new_cost": 0.0025,
}
CARD = "---\npretty_name: docs\n---\n\n# docs\n\n## Mixes\n"


def make_row(number: int) -> RaftRow:
    """A row whose question is Markdown that must not act."""
    return bare_row(
        f"What does [otter {number}](javascript:alert) eat?",
        row_id=f"row-{number}",
        split=SPLITS[number % 3],
        chunk_id=f"chunk-{number}",
        document_id=f"doc-{number}",
    )


@dataclass
class FakeStages:
    """What the fake stages were asked, and how they are to behave."""

    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    failures: dict[str, list[Exception]] = field(default_factory=dict)
    """Stage to the errors that its next calls raise."""
    difference: float = 0.15
    """What fine-tuning adds to token F1."""

    @property
    def stages(self) -> list[str]:
        """The stages that were called, in order."""
        return [stage for stage, _ in self.calls]

    def make(
        self, kind: ArtifactKind, stage: str, fill: Callable[[ArtifactDraft], None]
    ) -> Callable[..., StageResult]:
        """A stage function that publishes what `fill` writes."""

        def run(
            ws: Workspace, name: str, config: Any, *inputs: Any, **named_inputs: Any
        ) -> StageResult:
            on_stage = named_inputs.pop("on_stage", None)
            given = {f"input{n}": ref for n, ref in enumerate(inputs)} | named_inputs
            if stage == "evaluate" and (baseline := given.pop("baseline")) is not None:
                given["champion"] = baseline
            self.calls.append((stage, given))
            if self.failures.get(stage):
                raise self.failures[stage].pop(0)
            with phase(ws.progress, f"Doing {stage}", 2, "things") as progress:
                progress.advance(2)
            result = run_stage(
                ws,
                kind=kind,
                name=name,
                stage=stage,
                stage_version=1,
                config=config,
                inputs=given,
                build=fill,
            )
            if on_stage is not None:
                on_stage(result)
            return result

        return run

    def fill(self, draft: ArtifactDraft) -> None:
        """Any content."""
        (draft.directory / "data").write_text("content")
        draft.counts["num_things"] = 2

    def fill_model(self, draft: ArtifactDraft) -> None:
        """A card and what was measured."""
        self.fill(draft)
        (draft.directory / "README.md").write_text("---\nlicense: mit\n---\n\n# A model\n")
        draft.metrics["initial_validation_loss"] = 1.5
        draft.metrics["final_validation_loss"] = 0.25

    def fill_dataset(self, draft: ArtifactDraft) -> None:
        """Rows, a funnel, samples of rejects, a ledger, a card."""
        for number, split in enumerate(SPLITS):
            rows = [make_row(place) for place in range(number, 9, len(SPLITS))]
            write_rows(draft.directory / split_file(split), rows)
        (draft.directory / "funnel.json").write_text(json.dumps(FUNNEL))
        (draft.directory / "reject_samples.json").write_text(json.dumps([asdict(REJECT)]))
        (draft.directory / "README.md").write_text(CARD)
        draft.details["ledger"] = [LEDGER]
        draft.counts["num_rows"] = 9
        draft.dropped["not_retrieved"] = 3

    def fill_evaluation(self, draft: ArtifactDraft) -> None:
        """Metrics and a report."""
        base, candidate = _around(0.3), _around(0.3 + self.difference)
        summary = EvaluationSummary(
            evaluation_version=1,
            split="test",
            num_questions=20,
            num_oracle_in_context=18,
            context_size=3,
            confidence=0.95,
            arms={"base": {"token_f1": base}, "candidate": {"token_f1": candidate}},
            retrieval={"recall@5": _around(0.8)},
            comparisons=(
                Comparison(
                    metric="token_f1",
                    arm="candidate",
                    against="base",
                    difference=self.difference,
                    low=self.difference - 0.05,
                    high=self.difference + 0.05,
                    p_value=0.01,
                    num=20,
                ),
            ),
            answers={},
            signatures={},
        )
        (draft.directory / "metrics.json").write_text(summary.model_dump_json())
        (draft.directory / "report.html").write_text("<h1>Report</h1>")
        draft.counts["num_questions"] = 20


def _around(mean: float) -> Estimate:
    return Estimate(mean=mean, low=mean - 0.05, high=mean + 0.05, num=20)


@pytest.fixture
def fake_stages(monkeypatch: pytest.MonkeyPatch) -> FakeStages:
    """Every stage before `promote` replaced; `promote` is the real one."""
    fakes = FakeStages()
    for path, kind, stage, fill in (
        ("corpus.stage.ingest", "corpus", "ingest", fakes.fill),
        ("retrieval.stage.build_index", "index", "index", fakes.fill),
        ("raft.stage.synthesize", "dataset", "synthesize", fakes.fill_dataset),
        ("training.stage.finetune", "model", "finetune", fakes.fill_model),
        ("evaluation.stage.evaluate", "evaluation", "evaluate", fakes.fill_evaluation),
    ):
        monkeypatch.setattr(f"pipeline_lib.{path}", fakes.make(kind, stage, fill))  # type: ignore[arg-type]
    return fakes


@pytest.fixture
def make_flow_row() -> Callable[[int], RaftRow]:
    """Rows like those of the fake dataset."""
    return make_row
