"""The decision whether a tuned embedding model goes into service."""

from __future__ import annotations

from pipeline_lib.artifacts.manifest import ArtifactRef, Manifest
from pipeline_lib.artifacts.store import CHAMPION as CHAMPION_ALIAS
from pipeline_lib.config import PromoteRetrieverConfig, TuneRetrieverConfig
from pipeline_lib.errors import ConfigError, InputError
from pipeline_lib.evaluation.promotion import PromotionResult
from pipeline_lib.retriever.challenge import challenge_champion
from pipeline_lib.retriever.measuring import (
    BM25_ARM,
    CHAMPION,
    TUNED,
    UNTUNED,
    ArmComparison,
    RetrieverEvaluation,
    read_evaluation,
)
from pipeline_lib.retriever.naming import retriever_name
from pipeline_lib.retriever.service import BASE_MODEL
from pipeline_lib.stage import Workspace


def promote_retriever(
    ws: Workspace, name: str, config: PromoteRetrieverConfig, model: ArtifactRef
) -> PromotionResult:
    """Move the alias `champion` of `model/<name>-retriever` to a tuned model if it is better.

    Better than the untuned model; than BM25 alone, if `config.not_below_bm25` asks for it; and than
    the present champion, which for this is measured on the candidate's questions. A champion that
    was tuned from another base model is not compared with: the index it belongs to is another one.
    Every condition that fails is a reason.

    Raises:
        ConfigError: the metric was not measured.
        InputError: the model is not a tuned retriever of this pipeline.
        AliasConflictError: somebody else moved the alias meanwhile.
    """
    if model.kind != "model" or model.name != retriever_name(name):
        raise InputError(
            f"{model} is not a tuned retriever of {name!r}",
            hint=f"Those are named model/{retriever_name(name)}; the flow 'tune_retriever' makes "
            "them.",
        )
    manifest = ws.artifacts.manifest(model)
    evaluation = read_evaluation(ws.artifacts.directory(model))
    arm = f"{TUNED}/{config.search}"
    versus_untuned = _required(evaluation, config.metric, arm, f"{UNTUNED}/{config.search}")
    present = ws.artifacts.alias("model", model.name, CHAMPION_ALIAS)
    decisive = versus_untuned
    reasons: list[str] = []
    failures: list[str] = []
    checks = [(versus_untuned, "the untuned model")]
    rival = _rival(ws, present, manifest)
    if rival is not None and rival != model:
        challenge = challenge_champion(
            ws, name, _tuning_config(manifest), candidate=model, champion=rival
        )
        decisive = _required(challenge, config.metric, arm, f"{CHAMPION}/{config.search}")
        checks.append((decisive, "the champion"))
    for comparison, against in checks:
        is_met, reason = _weigh(comparison, against, config, evaluation.confidence)
        (reasons if is_met else failures).append(reason)
    if config.not_below_bm25:
        versus_bm25 = _required(evaluation, config.metric, arm, BM25_ARM)
        if versus_bm25.difference < 0:
            failures.append(f"{_words(versus_bm25, 'BM25 alone')}: it is below")

    def decided(why: list[str], *, is_promoted: bool = False) -> PromotionResult:
        return PromotionResult(
            is_promoted=is_promoted,
            reasons=tuple(why),
            metric=f"{config.metric} ({config.search} search)",
            difference=decisive.difference,
            low=decisive.low,
            high=decisive.high,
            model=model,
            against="base" if decisive is versus_untuned else "champion",
        )

    if present == model:
        return decided([f"{model} is already champion"])
    if failures:
        return decided(failures)
    ws.artifacts.set_alias(CHAMPION_ALIAS, model, expected=present, reason="; ".join(reasons))
    return decided(reasons, is_promoted=True)


def _rival(ws: Workspace, champion: ArtifactRef | None, candidate: Manifest) -> ArtifactRef | None:
    """The champion, if it was tuned from the candidate's base model."""
    if champion is None:
        return None
    tuned_from = ws.artifacts.manifest(champion).inputs.get(BASE_MODEL)
    return champion if tuned_from == candidate.inputs.get(BASE_MODEL) else None


def _tuning_config(manifest: Manifest) -> TuneRetrieverConfig:
    return TuneRetrieverConfig.model_validate(manifest.config)


def _required(
    evaluation: RetrieverEvaluation, metric: str, arm: str, against: str
) -> ArmComparison:
    comparison = evaluation.comparison(metric, arm, against)
    if comparison is None:
        measured = dict.fromkeys(each.metric for each in evaluation.comparisons)
        raise ConfigError(
            f"The metric {metric!r} was not measured",
            hint="Measured were " + ", ".join(measured) + "; tune_retriever.cutoffs says at which "
            "K recall is.",
        )
    return comparison


def _weigh(
    comparison: ArmComparison, against: str, config: PromoteRetrieverConfig, confidence: float
) -> tuple[bool, str]:
    """Whether the improvement is large and certain enough, in words with numbers."""
    is_met = comparison.low > config.min_improvement
    verdict = "exceeds" if is_met else "does not exceed"
    interval = (
        f"({100 * confidence:g}% interval {comparison.low:+.4f} to {comparison.high:+.4f}, "
        f"{comparison.num} questions)"
    )
    return is_met, (
        f"{_words(comparison, against)} {interval}: the lower bound {verdict} "
        f"{config.min_improvement:g}"
    )


def _words(comparison: ArmComparison, against: str) -> str:
    search = comparison.arm.partition("/")[2]
    return (
        f"{comparison.metric} of {search} search, improvement on {against}: "
        f"{comparison.difference:+.4f}"
    )
