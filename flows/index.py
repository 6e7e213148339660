"""The flow `index`."""

from __future__ import annotations

from flows.fan_out import IN_PLACE, index_with
from flows.runtime import Name, Reference, completed, raftline_flow
from flows.summary import stage_markdown, stage_message
from pipeline_lib.config import FanOutConfig, IndexConfig
from pipeline_lib.stage import StageResult
from tasks.references import full_reference, resolve

_DEFAULT = IndexConfig()


@raftline_flow(name="index")
def index(
    name: Name = "demo",
    corpus: Reference = "latest",
    config: IndexConfig = _DEFAULT,
    fan_out: FanOutConfig = IN_PLACE,
) -> StageResult:
    """Embed a corpus and make it searchable: makes the artifact `index`.

    Args:
        name: Names the pipeline and its artifacts: lower-case letters, digits, dashes.
        corpus: The corpus: 'latest', a fingerprint, or another pipeline's ('corpus/docs@latest').
        config: How chunks become vectors.
        fan_out: Whether one process embeds them, or several workers.
    """
    inputs = resolve({"corpus": full_reference("corpus", name, corpus)})
    result = index_with(fan_out, name, config, inputs["corpus"])
    return completed(
        result,
        stage_message(result),
        summary_key=f"{name}-index-summary",
        summary_markdown=stage_markdown("index", result),
    )
