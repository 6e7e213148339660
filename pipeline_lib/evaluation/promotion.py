"""The decision whether a fine-tuned model becomes the champion."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.artifacts.store import CHAMPION as CHAMPION_ALIAS
from pipeline_lib.config import PromoteConfig
from pipeline_lib.errors import ConfigError, InputError
from pipeline_lib.evaluation.metrics import ARM_METRICS, MetricSpec
from pipeline_lib.evaluation.records import CHAMPION, Comparison, read_summary
from pipeline_lib.stage import Workspace


class PromotionResult(BaseModel):
    """What was decided, and why."""

    model_config = ConfigDict(frozen=True)

    is_promoted: bool
    """The alias was moved by this decision."""
    reasons: tuple[str, ...]
    metric: str
    difference: float | None
    """Candidate minus `against` on the metric; `None` when they were not compared."""
    low: float | None
    """Bounds of the paired interval of the difference."""
    high: float | None
    model: ArtifactRef
    """The candidate."""
    against: Literal["base", "champion"]


def promote(
    ws: Workspace, name: str, config: PromoteConfig, evaluation: ArtifactRef
) -> PromotionResult:
    """Move the alias `champion` of `model/<name>` to the evaluated model if it is better.

    Better than the present champion, which must then have been an arm of the evaluation; where
    there is no champion yet, better than the base model. Better means that the paired interval of
    the improvement lies above `config.min_improvement`; for a metric of which less is better, the
    improvement is the decrease.

    Raises:
        ConfigError: the metric does not exist.
        InputError: the evaluation is of a model with another name.
        AliasConflictError: somebody else moved the alias meanwhile.
    """
    spec = ARM_METRICS.get(config.metric)
    if spec is None:
        raise ConfigError(
            f"There is no metric {config.metric!r} to promote by",
            hint="The metrics are: " + ", ".join(ARM_METRICS),
        )
    manifest = ws.artifacts.manifest(evaluation)
    candidate = manifest.input_refs["model"]
    if candidate.name != name:
        raise InputError(
            f"{evaluation} evaluates {candidate}, not a model of {name!r}",
            hint=f"Promote {candidate.name!r} instead, or give an evaluation of {name!r}.",
        )
    champion = ws.artifacts.alias("model", name, CHAMPION_ALIAS)
    against: Literal["base", "champion"] = "base" if champion is None else "champion"
    summary = read_summary(ws.artifacts.directory(evaluation))
    comparison = summary.comparison(spec.name, against)

    def decided(reason: str, *, is_promoted: bool = False) -> PromotionResult:
        return PromotionResult(
            is_promoted=is_promoted,
            reasons=(reason,),
            metric=spec.name,
            difference=comparison.difference if comparison else None,
            low=comparison.low if comparison else None,
            high=comparison.high if comparison else None,
            model=candidate,
            against=against,
        )

    if champion == candidate:
        return decided(f"{candidate} is already champion")
    if champion is not None and manifest.input_refs.get(CHAMPION) != champion:
        return decided(
            f"The present champion {champion} was not an arm of {evaluation}: "
            "evaluate again with it as the baseline"
        )
    if comparison is None:
        return decided(f"{spec.name} applies to none of the {summary.num_questions} questions")
    is_better, reason = _weigh(comparison, spec, config.min_improvement, summary.confidence)
    if is_better:
        ws.artifacts.set_alias(
            CHAMPION_ALIAS, candidate, expected=champion, reason=f"{reason} ({evaluation})"
        )
    return decided(reason, is_promoted=is_better)


def _weigh(
    comparison: Comparison, spec: MetricSpec, min_improvement: float, confidence: float
) -> tuple[bool, str]:
    """Whether the improvement is large and certain enough, in words with numbers."""
    improvement = spec.improvement(comparison.difference)
    low, high = sorted((spec.improvement(comparison.low), spec.improvement(comparison.high)))
    measured = (
        f"{spec.name}, improvement on the {comparison.against}: {improvement:+.4f} "
        f"({100 * confidence:g}% interval {low:+.4f} to {high:+.4f}, {comparison.num} questions)"
    )
    if low > min_improvement:
        return True, f"{measured}: the lower bound exceeds {min_improvement:g}"
    return False, f"{measured}: the lower bound does not exceed {min_improvement:g}"
