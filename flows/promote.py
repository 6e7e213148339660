"""The flow `promote`."""

from __future__ import annotations

from flows.runtime import Name, Reference, completed, raftline_flow
from flows.summary import promotion_markdown, promotion_message
from pipeline_lib.config import PromoteConfig
from pipeline_lib.evaluation.promotion import PromotionResult
from tasks.promote import promote as promote_task
from tasks.references import full_reference, resolve

_DEFAULT = PromoteConfig()


@raftline_flow(name="promote")
def promote(
    name: Name = "demo", evaluation: Reference = "latest", config: PromoteConfig = _DEFAULT
) -> PromotionResult:
    """Make the evaluated model champion if it is better, else record why not.

    Args:
        name: Names the pipeline and its artifacts: lower-case letters, digits, dashes.
        evaluation: The evaluation that decides: 'latest', a fingerprint, 'evaluation/x@latest'.
        config: Which metric decides, and by how much.
    """
    inputs = resolve({"evaluation": full_reference("evaluation", name, evaluation)})
    result = promote_task(name, config, inputs["evaluation"])
    return completed(
        result,
        promotion_message(result),
        summary_key=f"{name}-promote-summary",
        summary_markdown=promotion_markdown(result),
    )
