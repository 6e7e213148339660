"""The flow `ingest`."""

from __future__ import annotations

from flows.fan_out import IN_PLACE, ingest_with
from flows.runtime import Name, completed, raftline_flow
from flows.summary import stage_markdown, stage_message
from pipeline_lib.config import FanOutConfig, IngestConfig
from pipeline_lib.stage import StageResult

_DEFAULT = IngestConfig()


@raftline_flow(name="ingest")
def ingest(
    name: Name = "demo", config: IngestConfig = _DEFAULT, fan_out: FanOutConfig = IN_PLACE
) -> StageResult:
    """Read documents and cut them into chunks: makes the artifact `corpus`.

    Args:
        name: Names the pipeline and its artifacts: lower-case letters, digits, dashes.
        config: Which documents, and how they are cut.
        fan_out: Whether one process parses them, or several workers.
    """
    result = ingest_with(fan_out, name, config)
    return completed(
        result,
        stage_message(result),
        summary_key=f"{name}-ingest-summary",
        summary_markdown=stage_markdown("ingest", result),
    )
