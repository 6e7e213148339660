"""The flow `evaluate_retrieval`."""

from __future__ import annotations

from flows.runtime import Name, Reference, completed, raftline_flow
from flows.summary import stage_markdown, stage_message
from pipeline_lib.config import RetrievalEvaluationConfig
from pipeline_lib.stage import StageResult
from tasks.evaluate_retrieval import evaluate_retrieval as evaluate_retrieval_task
from tasks.references import full_reference, resolve

_DEFAULT = RetrievalEvaluationConfig()


@raftline_flow(name="evaluate_retrieval")
def evaluate_retrieval(
    name: Name = "demo",
    index: Reference = "latest",
    dataset: Reference = "latest",
    config: RetrievalEvaluationConfig = _DEFAULT,
) -> StageResult:
    """Measure the retrieval of an index, per branch and fused: makes an artifact `evaluation`.

    Args:
        name: Names the pipeline and its artifacts: lower-case letters, digits, dashes.
        index: What is searched: 'latest', a fingerprint, or 'index/docs@latest'.
        dataset: Whose questions are asked where the configuration names no judgements: 'latest',
            a fingerprint, or 'dataset/docs@latest'.
        config: Which queries, which settings are compared, how sure the intervals are.
    """
    references = {"index": full_reference("index", name, index)}
    if not config.has_files:
        references["dataset"] = full_reference("dataset", name, dataset)
    inputs = resolve(references)
    result = evaluate_retrieval_task(name, config, inputs["index"], inputs.get("dataset"))
    return completed(
        result,
        stage_message(result),
        summary_key=f"{name}-evaluate-retrieval-summary",
        summary_markdown=stage_markdown("evaluate_retrieval", result),
    )
