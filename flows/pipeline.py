"""The flow `pipeline`: from documents to a promoted model."""

from __future__ import annotations

from flows.runtime import completed, raftline_flow
from flows.summary import PipelineSummary, pipeline_markdown
from pipeline_lib.config import PipelineConfig
from tasks.evaluate import choose_baseline, evaluate
from tasks.finetune import finetune, finetune_elsewhere
from tasks.index import index
from tasks.ingest import ingest
from tasks.promote import promote
from tasks.synthesize import synthesize

_DEFAULT = PipelineConfig()


@raftline_flow(name="pipeline")
def pipeline(config: PipelineConfig = _DEFAULT) -> PipelineSummary:
    """Ingest, index, synthesize, fine-tune, evaluate, promote; reuses whatever is there already.

    Args:
        config: What each stage does. The defaults train a small model on the built-in sample.
    """
    name = config.name
    corpus = ingest(name, config.ingest)
    passages = index(name, config.index, corpus.ref)
    dataset = synthesize(name, config.synthesize, corpus.ref, passages.ref)
    if config.finetune_deployment:
        model = finetune_elsewhere(config.finetune_deployment, name, config.finetune, dataset.ref)
    else:
        model = finetune(name, config.finetune, dataset.ref)
    baseline = choose_baseline(name, model.ref)
    evaluation = evaluate(name, config.evaluate, model.ref, dataset.ref, passages.ref, baseline)
    promotion = promote(name, config.promote, evaluation.ref)
    summary = PipelineSummary(
        name=name,
        corpus=corpus,
        index=passages,
        dataset=dataset,
        model=model,
        evaluation=evaluation,
        promotion=promotion,
    )
    return completed(
        summary,
        summary.message,
        summary_key=f"{name}-summary",
        summary_markdown=pipeline_markdown(summary),
    )
