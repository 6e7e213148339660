"""What a synthesis will take, told from a sample before it is run.

The sample goes through the very steps of the run, and what the teacher writes is kept where the run
will look for it: nothing of the sample is paid for twice.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.generation.base import Completion, TextGenerator
from pipeline_lib.generation.budget import Budget
from pipeline_lib.generation.ledger import Ledger
from pipeline_lib.progress import phase
from pipeline_lib.raft.dataset.previous import PreviousDataset
from pipeline_lib.raft.extrapolation import Quantity, Sample, extrapolate
from pipeline_lib.raft.gates.judge import Judge
from pipeline_lib.raft.making import DatasetMaker
from pipeline_lib.raft.stage import Job
from pipeline_lib.raft.trial import PairTrial, TopicTrial, Trial, measure
from pipeline_lib.retrieval.search import PassageSearcher
from pipeline_lib.stage import Workspace

_MOST_ATTEMPTS = 3
"""At a request: who asks for an estimate should soon hear that the teacher is not there."""
NOTHING = Quantity(value=0.0, low=0.0, high=0.0)
_HOUR_SECONDS = 3600.0
_TOTALS = (
    "requests",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "scored_targets",
    "cost",
)
_REQUEST_SECONDS = "request_seconds"
_SECONDS = "seconds"


class StepEstimate(BaseModel):
    """What one step is expected to ask of the teacher."""

    model_config = ConfigDict(frozen=True)

    step: str
    requests: float
    prompt_tokens: float
    cached_tokens: float
    completion_tokens: float
    scored_targets: float
    cost: float


class FunnelStep(BaseModel):
    """How many candidates passed a step, and why others did not."""

    model_config = ConfigDict(frozen=True)

    name: str
    kept: int
    dropped: dict[str, int]


class SampleRecord(BaseModel):
    """What was tried to make the estimate."""

    model_config = ConfigDict(frozen=True)

    num_topics: int
    """Topics, or the user's pairs."""
    num_rows: int
    num_requests: int
    num_reused: int
    """Of requests and scores, those that were in the store before."""
    num_tokens: int
    cost: float
    new_cost: float
    """Of `cost`, what this estimate has spent."""
    steps: tuple[FunnelStep, ...]
    """What became of the sample's questions."""


class SynthesisEstimate(BaseModel):
    """What a run is expected to take, all of it, whatever the store has already."""

    model_config = ConfigDict(frozen=True)

    name: str
    teacher: str
    is_made: bool
    """The dataset exists: a run would find it and ask for nothing."""
    num_rows_carried: int
    """Taken over from the dataset before; they take nothing."""
    num_rows_missing: int = 0
    """Wanted beside those."""
    rows: Quantity = NOTHING
    """Rows that will be made, as far as the missing ones can be."""
    topics: Quantity = NOTHING
    """Topics (or the user's pairs) gone through for them."""
    requests: Quantity = NOTHING
    prompt_tokens: Quantity = NOTHING
    cached_tokens: Quantity = NOTHING
    """Of the prompt tokens, those that the server reported as cached."""
    completion_tokens: Quantity = NOTHING
    scored_targets: Quantity = NOTHING
    cost: Quantity = NOTHING
    currency: str
    hours: Quantity | None = None
    """Waiting for the teacher: at the sample's time for a request, and with as many requests in
    flight as the configuration allows. `None` where the sample could not tell."""
    budget_share: float | None = None
    """How much of the run the budget reaches for, 1 for all of it; `None` without a budget."""
    steps: tuple[StepEstimate, ...] = ()
    sample: SampleRecord | None = None
    notes: tuple[str, ...] = ()


def estimate(
    ws: Workspace,
    name: str,
    config: SynthesizeConfig,
    corpus: ArtifactRef,
    index: ArtifactRef,
    sample_topics: int = 16,
    *,
    teacher: TextGenerator | None = None,
    searcher: PassageSearcher | None = None,
) -> SynthesisEstimate:
    """Tell what `synthesize` would take with the same arguments; leaves nothing but completions.

    Tries `sample_topics` topics (or pairs of the user's); more tell more exactly.

    Raises:
        ConfigError: as `synthesize`; or the budget does not even reach for the sample.
        InputError: as `synthesize`.
        GenerationError: the teacher failed, or cannot be reached.
    """
    attempts = min(config.teacher.max_attempts, _MOST_ATTEMPTS)
    hasty = config.teacher.model_copy(update={"max_attempts": attempts})
    config = config.model_copy(update={"teacher": hasty})
    job = Job.prepare(ws, name, config, corpus, index, teacher, searcher)
    base = job.base()
    ws.settings.scratch.mkdir(parents=True, exist_ok=True)
    with ExitStack() as opened:
        folder = opened.enter_context(
            tempfile.TemporaryDirectory(prefix="estimate-", dir=ws.settings.scratch)
        )
        metered = job.teacher.open(config.budget, opened)
        previous = PreviousDataset.find(ws.artifacts, base)
        maker = opened.enter_context(DatasetMaker(job, metered, Path(folder), previous))
        opened.enter_context(phase(ws.progress, "Estimating", None, "rows"))
        trial: Trial[Any] = (
            TopicTrial(maker, config, sample_topics)
            if job.pairs is None
            else PairTrial(maker, config, job.pairs, sample_topics)
        )
        record = _Record(job, trial, is_made=ws.artifacts.find(job.made_on(base)) is not None)
        if not trial.sample:
            return record.of_nothing()
        sample, ledger = measure(trial, metered, config.budget)
        return record.of(sample, ledger)


class _Record:
    """Puts an estimate together."""

    def __init__(self, job: Job, trial: Trial[Any], *, is_made: bool) -> None:
        self._job = job
        self._config = job.config
        self._trial = trial
        self._common: dict[str, Any] = {
            "name": job.name,
            "teacher": job.teacher.identity,
            "is_made": is_made,
            "num_rows_carried": trial.num_carried,
            "currency": job.config.teacher.prices.currency,
        }

    def of_nothing(self) -> SynthesisEstimate:
        """Everything is taken over, or there is nothing to ask about."""
        return SynthesisEstimate(**self._common)

    def of(self, sample: Sample, ledger: Ledger) -> SynthesisEstimate:
        """From what a sample took."""
        trial, steps = self._trial, [line.step for line in ledger.lines]
        sample = self._with_totals(sample, steps, ledger)
        found = self._extrapolated(sample)
        totals = {name: found[name] for name in ("rows", "topics", *_TOTALS)}
        can_tell_time = _SECONDS in found
        return SynthesisEstimate(
            **self._common,
            **totals,
            num_rows_missing=trial.plan().num_rows_wanted,
            hours=_hours(found[_SECONDS]) if can_tell_time else None,
            budget_share=self._budget_share(totals),
            steps=tuple(
                StepEstimate(step=step, **{name: found[f"{step}/{name}"].value for name in _TOTALS})
                for step in steps
            ),
            sample=_sample_record(sample, ledger, trial),
            notes=tuple(self._notes(can_tell_time=can_tell_time)),
        )

    def _with_totals(self, sample: Sample, steps: Sequence[str], ledger: Ledger) -> Sample:
        """The sample with sums over all steps, and with seconds if they can be told."""
        measures, fixed = dict(sample.measures), dict(sample.fixed)
        for name in (*_TOTALS, _REQUEST_SECONDS):
            measures[name] = np.sum([measures[f"{step}/{name}"] for step in steps], axis=0)
            fixed[name] = sum(fixed[f"{step}/{name}"] for step in steps)
        score_seconds = _seconds_per_score(ledger)
        if score_seconds is not None:
            each = 1.0 / self._in_flight
            measures[_SECONDS] = (
                measures[_REQUEST_SECONDS] * each + measures["scored_targets"] * score_seconds
            )
            fixed[_SECONDS] = fixed[_REQUEST_SECONDS] * each
        return Sample(sample.rows, measures, fixed)

    def _extrapolated(self, sample: Sample) -> dict[str, Quantity]:
        """Extrapolate; count what there is to ask about only as far as it could be needed."""
        plan, seed = self._trial.plan(), self._config.seed
        found = extrapolate(sample, plan, seed=seed)
        highest = math.ceil(found["topics"].high)
        available = self._trial.count(highest)
        if available >= highest:
            return found
        return extrapolate(sample, replace(plan, max_topics=available), seed=seed)

    @property
    def _in_flight(self) -> int:
        """How many requests are answered at a time."""
        teacher = self._config.teacher
        return teacher.concurrency if teacher.kind == "endpoint" else 1

    def _budget_share(self, totals: Mapping[str, Quantity]) -> float | None:
        budget = Budget(self._config.budget, self._config.teacher.prices)
        if not budget.is_limited:
            return None
        prompt, written = (totals[n].value for n in ("prompt_tokens", "completion_tokens"))
        budget.spend(Completion("", round(prompt), round(written), "stop"))
        return min(1.0, 1.0 / max(budget.spent_share, 1e-9))

    def _notes(self, *, can_tell_time: bool) -> Iterator[str]:
        gates = self._trial.parts.answer_gates
        if any(isinstance(gate, Judge) and gate.calibration is None for gate in gates):
            yield "The sample was too small to calibrate the judge: what it will ask is missing."
        if not can_tell_time:
            yield "All scores were in the store already: how long scoring takes is not known."


def _seconds_per_score(ledger: Ledger) -> float | None:
    """Time of a score; `None` where none was made now."""
    lines = [line for line in ledger.lines if line.num_scored_targets]
    if not lines:
        return 0.0
    num_new = sum(line.num_new_scores for line in lines)
    waited = sum(line.waiting_seconds for line in lines if not line.new.num_completions)
    return waited / num_new if num_new else None


def _hours(seconds: Quantity) -> Quantity:
    return Quantity(
        value=seconds.value / _HOUR_SECONDS,
        low=seconds.low / _HOUR_SECONDS,
        high=seconds.high / _HOUR_SECONDS,
    )


def _sample_record(sample: Sample, ledger: Ledger, trial: Trial[Any]) -> SampleRecord:
    totals, num_rows = ledger.totals(), int(sample.rows.sum())
    return SampleRecord(
        num_topics=sample.num_topics,
        num_rows=num_rows,
        num_requests=int(totals["num_completions"]),
        num_reused=int(totals["num_reused"]),
        num_tokens=int(totals["prompt_tokens"] + totals["completion_tokens"]),
        cost=totals["cost"],
        new_cost=totals["new_cost"],
        steps=tuple(FunnelStep(**step) for step in trial.funnel_steps),
    )
