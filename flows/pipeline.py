"""The flow `pipeline`: from documents to a promoted model."""

from __future__ import annotations

from flows.approval import ask_for_approval
from flows.fan_out import index_with, ingest_with
from flows.runtime import completed, raftline_flow
from flows.summary import PipelineSummary, TunedRetriever, pipeline_markdown
from pipeline_lib.config import PipelineConfig
from pipeline_lib.retriever.naming import untuned_name
from tasks.evaluate import choose_baseline, evaluate
from tasks.finetune import finetune, finetune_elsewhere, model_to_continue
from tasks.promote import promote
from tasks.synthesize import synthesize
from tasks.tune_retriever import index_config_in_service, promote_retriever, tune_retriever

_DEFAULT = PipelineConfig()


@raftline_flow(name="pipeline")
def pipeline(config: PipelineConfig = _DEFAULT) -> PipelineSummary:
    """Ingest, index, synthesize, fine-tune, evaluate, promote; reuses whatever is there already.

    With `tune_retriever` set, the embedding model learns from the dataset too, and the index that
    the rest of the run uses is made with it when it is better. With `approval` set, the run pauses
    before anything is trained until somebody has approved the dataset.

    Args:
        config: What each stage does. The defaults train a small model on the built-in sample.
    """
    name = config.name
    corpus = ingest_with(config.fan_out, name, config.ingest)
    # Where a tuned embedding model may serve, the untuned one keeps an index of its own: datasets
    # are made with it, and they must not change because a retriever has learnt from them.
    tuning = config.tune_retriever
    first_name = name if tuning is None else untuned_name(name)
    passages = index_with(config.fan_out, first_name, config.index, corpus.ref)
    dataset = synthesize(name, config.synthesize, corpus.ref, passages.ref)
    if config.approval is not None:
        refusal = ask_for_approval(config.approval, dataset)
        if refusal is not None:
            return refusal
    retriever = None
    if tuning is not None:
        untuned = passages
        tuned = tune_retriever(name, tuning, dataset.ref, corpus.ref, untuned.ref)
        decision = promote_retriever(name, tuning.promotion, tuned.ref)
        serving = index_config_in_service(name, config.index, untuned.ref)
        passages = index_with(config.fan_out, name, serving, corpus.ref)
        retriever = TunedRetriever(untuned_index=untuned, model=tuned, promotion=decision)
    if config.finetune_deployment:
        model = finetune_elsewhere(config.finetune_deployment, name, config.finetune, dataset.ref)
    else:
        previous = model_to_continue(name, config.finetune)
        model = finetune(name, config.finetune, dataset.ref, previous)
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
        retriever=retriever,
    )
    return completed(
        summary,
        summary.message,
        summary_key=f"{name}-summary",
        summary_markdown=pipeline_markdown(summary),
    )
