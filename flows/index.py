"""The flow `index`."""

from __future__ import annotations

from flows.runtime import Name, Reference, completed, raftline_flow
from flows.summary import stage_markdown, stage_message
from pipeline_lib.config import IndexConfig
from pipeline_lib.stage import StageResult
from tasks.index import index as index_task
from tasks.references import full_reference, resolve

_DEFAULT = IndexConfig()


@raftline_flow(name="index")
def index(
    name: Name = "demo", corpus: Reference = "latest", config: IndexConfig = _DEFAULT
) -> StageResult:
    """Embed a corpus and make it searchable: makes the artifact `index`.

    Args:
        name: Names the pipeline and its artifacts: lower-case letters, digits, dashes.
        corpus: The corpus: 'latest', a fingerprint, or another pipeline's ('corpus/docs@latest').
        config: How chunks become vectors.
    """
    inputs = resolve({"corpus": full_reference("corpus", name, corpus)})
    result = index_task(name, config, inputs["corpus"])
    return completed(
        result,
        stage_message(result),
        summary_key=f"{name}-index-summary",
        summary_markdown=stage_markdown("index", result),
    )
