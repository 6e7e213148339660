"""The flow `tune_retriever`."""

from __future__ import annotations

from flows.runtime import Name, Reference, completed, raftline_flow
from flows.summary import RetrieverSummary, retriever_summary_markdown
from pipeline_lib.config import TuneRetrieverConfig
from tasks.index import index
from tasks.references import full_reference, resolve
from tasks.tune_retriever import dataset_origin, promote_retriever, serving_index
from tasks.tune_retriever import tune_retriever as tune_retriever_task

_DEFAULT = TuneRetrieverConfig()


@raftline_flow(name="tune_retriever")
def tune_retriever(
    name: Name = "demo", dataset: Reference = "latest", config: TuneRetrieverConfig = _DEFAULT
) -> RetrieverSummary:
    """Fine-tune the embedding model on a dataset; index with it when it is better.

    The index is made beside the present one, which serves until the new one is complete.

    Args:
        name: Names the pipeline and its artifacts: lower-case letters, digits, dashes.
        dataset: The dataset: 'latest', a fingerprint, or another pipeline's, 'dataset/x@latest'.
        config: Hard negatives, training, and what has to get better by how much.
    """
    inputs = resolve({"dataset": full_reference("dataset", name, dataset)})
    origin = dataset_origin(inputs["dataset"])
    model = tune_retriever_task(name, config, inputs["dataset"], origin.corpus, origin.index)
    promotion = promote_retriever(name, config.promotion, model.ref)
    serving = serving_index(name, origin.index)
    passages = index(name, serving.config, serving.corpus) if serving is not None else None
    summary = RetrieverSummary(model=model, promotion=promotion, index=passages)
    return completed(
        summary,
        summary.message,
        summary_key=f"{name}-tune-retriever-summary",
        summary_markdown=retriever_summary_markdown(summary),
    )
