"""The stage `evaluate`: models, questions and an index in, numbers and a report out.

Every arm answers the same questions with the same retrieved passages, greedily, one model in
memory at a time.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline_lib.artifacts.manifest import ArtifactRef, Manifest
from pipeline_lib.config import EvaluateConfig
from pipeline_lib.evaluation.arms import Arm, ArmOutput, ModelOpener, open_local_model, run_arm
from pipeline_lib.evaluation.lineage import trace_lineage
from pipeline_lib.evaluation.metrics import EVALUATION_VERSION
from pipeline_lib.evaluation.questions import Question, make_records, retrieve, select_rows
from pipeline_lib.evaluation.records import (
    BASE,
    CANDIDATE,
    CHAMPION,
    METRICS_FILE,
    RECORDS_FILE,
    REPORT_FILE,
    ArmName,
    EvaluationSummary,
    QuestionRecord,
    write_records,
)
from pipeline_lib.evaluation.report import ReportContent, TrainingLog, render_report
from pipeline_lib.evaluation.scoring import summarize
from pipeline_lib.generation.base import GenerationParams
from pipeline_lib.progress import phase
from pipeline_lib.raft.funnel import FUNNEL_FILE, SAMPLES_FILE, RejectSample, read_samples
from pipeline_lib.raft.rendering import FORMAT_VERSION
from pipeline_lib.retrieval.reranking import reranker_inputs
from pipeline_lib.retrieval.search import PassageSearcher, Searcher
from pipeline_lib.stage import (
    ArtifactDraft,
    StageResult,
    Workspace,
    code_version,
    library_versions,
    run_stage,
)
from pipeline_lib.training.export import LOG_FILE, tuned_from, tuned_model
from pipeline_lib.training.stage import intermediate_name

logger = logging.getLogger(__name__)

SearcherOpener = Callable[[Workspace, ArtifactRef], PassageSearcher]


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """What one evaluation rests on."""

    model: ArtifactRef
    dataset: ArtifactRef
    index: ArtifactRef
    champion: ArtifactRef | None

    @property
    def artifacts(self) -> dict[str, ArtifactRef]:
        """Role to artifact."""
        roles = {"model": self.model, "dataset": self.dataset, "index": self.index}
        return roles if self.champion is None else {**roles, CHAMPION: self.champion}


def evaluate(
    ws: Workspace,
    name: str,
    config: EvaluateConfig,
    *,
    model: ArtifactRef,
    dataset: ArtifactRef,
    index: ArtifactRef,
    baseline: ArtifactRef | None = None,
    open_model: ModelOpener = open_local_model,
    open_searcher: SearcherOpener = Searcher.open,
) -> StageResult:
    """Compare a fine-tuned model with its base model, and with the champion if there is one.

    A killed evaluation goes on where it stopped: retrieval, and every batch of answers and scores,
    is kept until the artifact is published.

    Args:
        ws: live services.
        name: the pipeline's name.
        config: how many questions, how many passages, how sure.
        model: the candidate.
        dataset: holds the questions and their reference answers.
        index: where passages are retrieved.
        baseline: the champion to compare with; the candidate itself counts as none.
        open_model: loads an arm's model.
        open_searcher: opens the index.

    Raises:
        ArtifactNotFoundError: an input does not exist.
        InputError: the dataset's split has no rows.
        ModelNotFoundError: the base model is not to be had, or is not the one that was fine-tuned.
        GenerationError: a question with its passages does not fit a model.
    """
    inputs = _Inputs(
        model=model,
        dataset=dataset,
        index=index,
        champion=None if baseline == model else baseline,
    )
    manifest = ws.artifacts.manifest(model)
    return run_stage(
        ws,
        kind="evaluation",
        name=name,
        stage="evaluate",
        stage_version=EVALUATION_VERSION,
        config=config,
        inputs={
            **inputs.artifacts,
            "base_model": manifest.inputs["base_model"],
            "prompt_format": str(FORMAT_VERSION),
            **reranker_inputs(ws.settings, config.retrieval),
        },
        seed=config.seed,
        build=lambda draft: _build(ws, draft, config, inputs, open_model, open_searcher),
    )


def _build(
    ws: Workspace,
    draft: ArtifactDraft,
    config: EvaluateConfig,
    inputs: _Inputs,
    open_model: ModelOpener,
    open_searcher: SearcherOpener,
) -> None:
    dataset = ws.artifacts.directory(inputs.dataset)
    rows, left_out = select_rows(dataset, config.split, config.max_questions)
    searcher = open_searcher(ws, inputs.index)
    questions = retrieve(rows, searcher, config, draft.partial, ws.progress)
    del searcher  # its encoder must not stay in memory beside the arms
    arms = _arms(ws, inputs)
    outputs = {
        arm: run_arm(
            arm,
            [question.task for question in questions],
            params=GenerationParams(max_new_tokens=config.max_new_tokens),
            batch_size=config.batch_size,
            open_model=open_model,
            partial=draft.partial,
            progress=ws.progress,
        )
        for arm in arms
    }
    with phase(ws.progress, "Scoring and reporting", None, "questions"):
        records = make_records(questions, outputs, config.cutoffs)
        summary = summarize(records, [arm.name for arm in arms], config)
        write_records(draft.directory / RECORDS_FILE, records)
        (draft.directory / METRICS_FILE).write_text(
            summary.model_dump_json(indent=1), encoding="utf-8"
        )
        content = _report_content(ws, draft, config, inputs, arms, records, summary)
        (draft.directory / REPORT_FILE).write_text(render_report(content), encoding="utf-8")
    _account(draft, questions, left_out, outputs, summary)


def _arms(ws: Workspace, inputs: _Inputs) -> list[Arm]:
    """Base, candidate, and champion where there is one."""
    base = tuned_from(ws, inputs.model)
    arms = [
        Arm(BASE, base.name, base.path, base.identity),
        _tuned_arm(ws, CANDIDATE, inputs.model),
    ]
    if inputs.champion is not None:
        arms.append(_tuned_arm(ws, CHAMPION, inputs.champion))
    return arms


def _tuned_arm(ws: Workspace, name: ArmName, model: ArtifactRef) -> Arm:
    tuned = tuned_model(ws, model)
    return Arm(name, tuned.name, tuned.path, tuned.identity, tuned.adapter)


def _account(
    draft: ArtifactDraft,
    questions: list[Question],
    left_out: Mapping[str, int],
    outputs: Mapping[Arm, Mapping[str, ArmOutput]],
    summary: EvaluationSummary,
) -> None:
    """What the manifest says about this evaluation."""
    draft.counts = {
        "num_questions": len(questions),
        "num_oracle_in_context": summary.num_oracle_in_context,
        "num_arms": len(outputs),
    }
    draft.dropped.update(left_out)
    draft.metrics = {
        f"{arm}/{metric}": found.mean
        for arm, metrics in summary.arms.items()
        for metric, found in metrics.items()
    } | {f"retrieval/{metric}": found.mean for metric, found in summary.retrieval.items()}
    completions = [o.completion for of_arm in outputs.values() for o in of_arm.values()]
    draft.ledger["prompt_tokens"] = sum(c.num_prompt_tokens for c in completions)
    draft.ledger["completion_tokens"] = sum(c.num_completion_tokens for c in completions)


def _report_content(
    ws: Workspace,
    draft: ArtifactDraft,
    config: EvaluateConfig,
    inputs: _Inputs,
    arms: list[Arm],
    records: list[QuestionRecord],
    summary: EvaluationSummary,
) -> ReportContent:
    return ReportContent(
        name=draft.ref.name,
        reference=str(draft.ref),
        made_at=datetime.now(UTC),
        summary=summary,
        records=records,
        models={arm.name: arm.model for arm in arms},
        trainings=_trainings(ws, inputs.model),
        funnel=_funnel(ws.artifacts.directory(inputs.dataset) / FUNNEL_FILE),
        rejects=_rejects(ws.artifacts.directory(inputs.dataset) / SAMPLES_FILE),
        lineage=trace_lineage(ws, inputs.artifacts),
        config=config.model_dump(mode="json"),
        libraries=library_versions(),
        code_version=code_version(),
    )


def _trainings(ws: Workspace, model: ArtifactRef) -> list[TrainingLog]:
    """Of the stages that made a model, the last of them itself."""
    found: list[TrainingLog] = []
    manifest: Manifest | None = ws.artifacts.manifest(model)
    while manifest is not None:
        objective = manifest.details.get("objective", "sft")
        # A champion that the training went on from was trained by itself.
        if found and manifest.ref.name != intermediate_name(model.name, objective):
            break
        path = ws.artifacts.file(manifest, LOG_FILE)
        lines = path.read_text(encoding="utf-8").splitlines() if path is not None else []
        found.append(TrainingLog(objective=objective, entries=[json.loads(line) for line in lines]))
        before = manifest.input_refs.get("previous")
        manifest = ws.artifacts.find(before) if before is not None else None
    return found[::-1]


def _rejects(path: Path) -> list[RejectSample]:
    return read_samples(path) if path.is_file() else []


def _funnel(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    funnel: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return funnel
