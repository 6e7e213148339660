"""The metrics as `evaluate.Metric` modules: instantiated directly, in memory, offline.

`evaluate.load` needs a hub even for its standard metrics; these classes need nothing, touch no
cache folder, and so can run in parallel flows. Each `compute` returns the aggregate under the
metric's name; per-question metrics add the single values under `per_question`, `None` where a
question does not apply:

    >>> TokenF1().compute(predictions=["a red fox"], references=["the fox"])
    {'token_f1': 0.666…, 'per_question': [0.666…]}

Importing this module loads `evaluate`, and with it torch and transformers (seconds).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import evaluate
from datasets import Features, List, Value

from pipeline_lib.evaluation.metrics import ARM_METRICS, RETRIEVAL_METRICS, generation, grounding
from pipeline_lib.evaluation.metrics.grounding import QuoteOutcome
from pipeline_lib.evaluation.metrics.retrieval import MEASURES

PER_QUESTION = "per_question"

_TEXT_FEATURES = {"predictions": Value("string"), "references": Value("string")}
_RANKING_FEATURES = {"predictions": List(Value("string")), "references": List(Value("string"))}
_QUOTE_FEATURES = {
    "predictions": List({"status": Value("string"), "chunk_id": Value("string")}),
    "references": {"oracle_chunk_id": Value("string"), "is_quote_expected": Value("bool")},
}
_LIKELIHOOD_FEATURES = {"predictions": Value("float64"), "references": Value("int64")}


class OfflineMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate has no type information
    """An `evaluate.Metric` that keeps its data in memory and writes nowhere."""

    metric: ClassVar[str]
    citation: ClassVar[str] = ""
    inputs: ClassVar[str]
    input_features: ClassVar[dict[str, Any]]

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        known = {**ARM_METRICS, **RETRIEVAL_METRICS}
        return evaluate.MetricInfo(
            description=known[self.metric].description,
            citation=self.citation,
            inputs_description=self.inputs,
            features=Features(self.input_features),
        )

    def _build_data_dir(self) -> str:
        return ""  # evaluate would create a cache folder that in-memory metrics never use


class PerQuestionMetric(OfflineMetric):
    """A metric whose aggregate is the mean over the questions it applies to."""

    @abstractmethod
    def score(self, prediction: Any, reference: Any) -> float | None:
        """The value of one question; `None` where the metric does not apply."""

    def _compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, Any]:
        return _aggregate(
            self.metric, [self.score(p, r) for p, r in zip(predictions, references, strict=True)]
        )


class RankingMetric(OfflineMetric):
    """A retrieval metric at a cutoff: `compute(..., k=5)` returns `{"recall@5": …}`."""

    inputs = "predictions: retrieved ids, best first. references: ids of the relevant documents."
    input_features = _RANKING_FEATURES

    def _compute(
        self, predictions: Sequence[list[str]], references: Sequence[list[str]], k: int = 10
    ) -> dict[str, Any]:
        measure = MEASURES[self.metric]
        return _aggregate(
            f"{self.metric}@{k}",
            [
                measure(retrieved, dict.fromkeys(relevant, 1), k)
                for retrieved, relevant in zip(predictions, references, strict=True)
            ],
        )


class RecallAtK(RankingMetric):
    """Recall@K."""

    metric = "recall"


class PrecisionAtK(RankingMetric):
    """Precision@K; divides by K."""

    metric = "precision"


class MrrAtK(RankingMetric):
    """Mean reciprocal rank within K."""

    metric = "mrr"


class NdcgAtK(RankingMetric):
    """nDCG@K with binary relevance."""

    metric = "ndcg"


class TextMetric(PerQuestionMetric):
    """A metric of one answer against one reference answer."""

    inputs = "predictions: final answers. references: reference answers."
    input_features = _TEXT_FEATURES


class ExactMatch(TextMetric):
    """Exact match after SQuAD normalisation."""

    metric = "exact_match"
    citation = "Rajpurkar et al. 2016, SQuAD, arXiv:1606.05250"

    def score(self, prediction: str, reference: str) -> float:
        """See `generation.exact_match`."""
        return generation.exact_match(prediction, reference)


class TokenF1(TextMetric):
    """Token F1 after SQuAD normalisation."""

    metric = "token_f1"
    citation = "Rajpurkar et al. 2016, SQuAD, arXiv:1606.05250"

    def score(self, prediction: str, reference: str) -> float:
        """See `generation.token_f1`."""
        return generation.token_f1(prediction, reference)


class RougeL(TextMetric):
    """ROUGE-L F1 over words of any script."""

    metric = "rouge_l"
    citation = "Lin 2004, ROUGE: a package for automatic evaluation of summaries"

    def score(self, prediction: str, reference: str) -> float:
        """See `generation.rouge_l`."""
        return generation.rouge_l(prediction, reference)


class Bleu(OfflineMetric):
    """Corpus-level sacreBLEU; also returns the `signature` that belongs to the number."""

    metric = "bleu"
    citation = "Post 2018, A call for clarity in reporting BLEU scores, arXiv:1804.08771"
    inputs = "predictions: final answers. references: reference answers."
    input_features = _TEXT_FEATURES

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
        score, signature = generation.corpus_bleu(predictions, references)
        return {self.metric: score, "signature": signature}


class AnswerPerplexity(OfflineMetric):
    """Perplexity of all reference answers together; also returns `num_tokens`."""

    metric = "answer_perplexity"
    inputs = (
        "predictions: summed negative log-likelihood of each reference answer, in nats. "
        "references: its tokens."
    )
    input_features = _LIKELIHOOD_FEATURES

    def _compute(self, predictions: Sequence[float], references: Sequence[int]) -> dict[str, Any]:
        num_tokens = sum(references)
        return {
            self.metric: generation.perplexity(sum(predictions), num_tokens),
            "num_tokens": num_tokens,
        }


class QuoteMetric(PerQuestionMetric):
    """A metric of one answer's quotes; `None` where no quote is expected."""

    inputs = (
        "predictions: status and chunk id of every quote. "
        "references: the oracle passage, and whether it was in the context."
    )
    input_features = _QUOTE_FEATURES

    def score(
        self, prediction: list[dict[str, str | None]], reference: dict[str, Any]
    ) -> float | None:
        """The value of one question; `None` where no quote is expected."""
        if not reference["is_quote_expected"]:
            return None
        outcomes = [QuoteOutcome(str(q["status"]), q["chunk_id"]) for q in prediction]
        return self.score_quotes(outcomes, reference["oracle_chunk_id"])

    @abstractmethod
    def score_quotes(self, quotes: Sequence[QuoteOutcome], oracle_chunk_id: str) -> float:
        """The value where a quote is expected."""


class VerbatimQuoteRate(QuoteMetric):
    """Share of quotes that are verbatim in the passage they cite."""

    metric = "verbatim_quote_rate"

    def score_quotes(self, quotes: Sequence[QuoteOutcome], oracle_chunk_id: str) -> float:  # noqa: ARG002
        """See `grounding.verbatim_quote_rate`."""
        return grounding.verbatim_quote_rate(quotes)


class AllQuotesValid(QuoteMetric):
    """Share of answers that quote, and only verbatim."""

    metric = "all_quotes_valid"

    def score_quotes(self, quotes: Sequence[QuoteOutcome], oracle_chunk_id: str) -> float:  # noqa: ARG002
        """See `grounding.all_quotes_valid`."""
        return grounding.all_quotes_valid(quotes)


class OracleCitationRate(QuoteMetric):
    """Share of answers that quote the oracle passage verbatim."""

    metric = "oracle_citation_rate"

    def score_quotes(self, quotes: Sequence[QuoteOutcome], oracle_chunk_id: str) -> float:
        """See `grounding.oracle_cited`."""
        return grounding.oracle_cited(quotes, oracle_chunk_id)


RANKING_METRICS = (RecallAtK, PrecisionAtK, MrrAtK, NdcgAtK)
TEXT_METRICS = (TokenF1, ExactMatch, RougeL)
QUOTE_METRICS = (VerbatimQuoteRate, AllQuotesValid, OracleCitationRate)


def _aggregate(name: str, values: Sequence[float | None]) -> dict[str, Any]:
    applicable = [value for value in values if value is not None]
    mean = sum(applicable) / len(applicable) if applicable else None
    return {name: mean, PER_QUESTION: list(values)}
