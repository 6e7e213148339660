"""The flow `synthesize`."""

from __future__ import annotations

from flows.runtime import Name, Reference, completed, raftline_flow
from flows.summary import stage_markdown, stage_message
from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.stage import StageResult
from tasks.references import full_reference, resolve
from tasks.synthesize import synthesize as synthesize_task

_DEFAULT = SynthesizeConfig()


@raftline_flow(name="synthesize")
def synthesize(
    name: Name = "demo",
    corpus: Reference = "latest",
    index: Reference = "latest",
    config: SynthesizeConfig = _DEFAULT,
) -> StageResult:
    """Write questions, reasoning and answers with verified quotes: makes the artifact `dataset`.

    Args:
        name: Names the pipeline and its artifacts: lower-case letters, digits, dashes.
        corpus: The corpus: 'latest', a fingerprint, or another pipeline's ('corpus/docs@latest').
        index: The index of that corpus: 'latest', a fingerprint, or 'index/docs@latest'.
        config: Who writes, how much, and what a row must hold.
    """
    inputs = resolve(
        {
            "corpus": full_reference("corpus", name, corpus),
            "index": full_reference("index", name, index),
        }
    )
    result = synthesize_task(name, config, inputs["corpus"], inputs["index"])
    return completed(
        result,
        stage_message(result),
        summary_key=f"{name}-synthesize-summary",
        summary_markdown=stage_markdown("synthesize", result),
    )
