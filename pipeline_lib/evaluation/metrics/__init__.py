"""Metrics: plain functions per question, and the same as `evaluate.Metric` modules.

`retrieval`, `generation` and `grounding` hold the definitions and import nothing heavy;
`modules` wraps them as `evaluate.Metric` subclasses (importing it loads `evaluate`).
"""

from __future__ import annotations

from dataclasses import dataclass

EVALUATION_VERSION = 2
"""Raised whenever the same answers may get another score, or the report another content."""


@dataclass(frozen=True)
class MetricSpec:
    """What a reader has to know about a metric."""

    name: str
    title: str
    description: str
    is_higher_better: bool = True
    is_share: bool = True
    """The value lies between 0 and 1."""

    def improvement(self, difference: float) -> float:
        """`difference` with its sign turned so that positive means better."""
        return difference if self.is_higher_better else -difference


ARM_METRICS: dict[str, MetricSpec] = {
    spec.name: spec
    for spec in (
        MetricSpec(
            "token_f1",
            "Token F1",
            "Words shared by final answer and reference answer (SQuAD normalisation).",
        ),
        MetricSpec(
            "exact_match",
            "Exact match",
            "Final answer equals the reference answer after SQuAD normalisation.",
        ),
        MetricSpec(
            "rouge_l",
            "ROUGE-L",
            "F1 of the longest common subsequence of words with the reference.",
        ),
        MetricSpec(
            "bleu",
            "BLEU",
            "Corpus-level sacreBLEU of the final answers, 0 to 100.",
            is_share=False,
        ),
        MetricSpec(
            "verbatim_quote_rate",
            "Verbatim quotes",
            "Share of an answer's quotes found word for word in the passage they cite; an answer "
            "without a quote counts 0. Only questions whose oracle passage was retrieved.",
        ),
        MetricSpec(
            "all_quotes_valid",
            "All quotes valid",
            "The answer quotes, and every quote is verbatim. Only questions whose oracle passage "
            "was retrieved.",
        ),
        MetricSpec(
            "oracle_citation_rate",
            "Oracle cited",
            "The answer quotes the oracle passage verbatim. Only questions whose oracle passage "
            "was retrieved.",
        ),
        MetricSpec(
            "answer_perplexity",
            "Answer perplexity",
            "exp(total negative log-likelihood / tokens) of the reference answers, given the "
            "dataset's own context. Lower is better.",
            is_higher_better=False,
            is_share=False,
        ),
    )
}
"""Metrics of one arm (a model answering the questions), in the report's order."""

RETRIEVAL_METRICS: dict[str, MetricSpec] = {
    spec.name: spec
    for spec in (
        MetricSpec("recall", "Recall@K", "Share of the relevant passages among the first K."),
        MetricSpec(
            "precision",
            "Precision@K",
            "Share of relevant passages among the first K places, empty places included; with one "
            "relevant passage at most 1/K.",
        ),
        MetricSpec("mrr", "MRR@K", "1 / rank of the first relevant passage within K, else 0."),
        MetricSpec("ndcg", "nDCG@K", "Discounted gain within K, relative to the best order."),
    )
}
"""Metrics of the retrieval; the same for every arm. Their values are named `recall@5` and so on."""

SUCCESS = MetricSpec("success", "Success@K", "Share of queries with any relevant passage within K.")
"""Equals recall where each query has one relevant passage, as in the comparison of models."""
