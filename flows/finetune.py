"""The flow `finetune`."""

from __future__ import annotations

from flows.runtime import Name, Reference, completed, raftline_flow
from flows.summary import stage_markdown, training_message
from pipeline_lib.config import FinetuneConfig
from pipeline_lib.stage import StageResult
from tasks.finetune import finetune as finetune_task
from tasks.finetune import model_to_continue
from tasks.references import full_reference, resolve

_DEFAULT = FinetuneConfig()


@raftline_flow(name="finetune")
def finetune(
    name: Name = "demo", dataset: Reference = "latest", config: FinetuneConfig = _DEFAULT
) -> StageResult:
    """Fine-tune a base model on a dataset: makes the artifact `model`.

    Args:
        name: Names the pipeline and its artifacts: lower-case letters, digits, dashes.
        dataset: The dataset: 'latest', a fingerprint, or another pipeline's, 'dataset/x@latest'.
        config: Base model, stages, method, batches, processes.
    """
    inputs = resolve({"dataset": full_reference("dataset", name, dataset)})
    result = finetune_task(name, config, inputs["dataset"], model_to_continue(name, config))
    return completed(
        result,
        training_message(result),
        summary_key=f"{name}-finetune-summary",
        summary_markdown=stage_markdown("finetune", result),
    )
