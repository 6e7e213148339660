"""The flow `evaluate`."""

from __future__ import annotations

from flows.runtime import Name, Reference, completed, raftline_flow, skipped
from flows.summary import stage_markdown, stage_message
from pipeline_lib.artifacts.store import CHAMPION
from pipeline_lib.config import EvaluateConfig
from pipeline_lib.stage import StageResult
from tasks.evaluate import choose_baseline
from tasks.evaluate import evaluate as evaluate_task
from tasks.references import MADE_BY, full_reference, is_latest, resolve

_DEFAULT = EvaluateConfig()
_BASELINE = "baseline"
_NO_BASELINE = "none"


@raftline_flow(name="evaluate")
def evaluate(
    name: Name = "demo",
    model: Reference = "latest",
    dataset: Reference = "latest",
    index: Reference = "latest",
    baseline: Reference = CHAMPION,
    config: EvaluateConfig = _DEFAULT,
) -> StageResult | None:
    """Compare a fine-tuned model with its base model: makes the artifact `evaluation`.

    Where a reference is 'latest' and nothing has been made yet, there is nothing to evaluate: the
    run ends as Skipped, so that a schedule may begin before the first training.

    Args:
        name: Names the pipeline and its artifacts: lower-case letters, digits, dashes.
        model: The fine-tuned model: 'latest', 'champion', a fingerprint, or 'model/docs@latest'.
        dataset: Whose held-out questions are asked: 'latest', a fingerprint, 'dataset/docs@latest'.
        index: Where passages are looked up: 'latest', a fingerprint, or 'index/docs@latest'.
        baseline: A second model to compare with, beside the base model: 'champion' (if there is
            one; the champion itself is compared as it was last), another reference, or 'none'.
        config: Which questions, how many passages, how sure the intervals are.
    """
    references = {
        "model": full_reference("model", name, model),
        "dataset": full_reference("dataset", name, dataset),
        "index": full_reference("index", name, index),
    }
    optional = tuple(role for role, reference in references.items() if is_latest(reference))
    if baseline not in (CHAMPION, _NO_BASELINE):
        references[_BASELINE] = full_reference("model", name, baseline)
    inputs = resolve(references, optional)
    for role in optional:
        if role not in inputs:
            return skipped(
                f"Nothing to evaluate yet: there is no {references[role]}. "
                f"The flow {MADE_BY[role]!r} makes it, or 'pipeline' makes everything."
            )
    against = inputs.get(_BASELINE)
    if baseline == CHAMPION:
        against = choose_baseline(name, inputs["model"])
    result = evaluate_task(
        name, config, inputs["model"], inputs["dataset"], inputs["index"], against
    )
    return completed(
        result,
        stage_message(result),
        summary_key=f"{name}-evaluate-summary",
        summary_markdown=stage_markdown("evaluate", result),
    )
