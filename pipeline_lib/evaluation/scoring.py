"""From recorded answers to metrics: per question, aggregated with intervals, compared in pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np

from pipeline_lib.config import EvaluateConfig
from pipeline_lib.evaluation.metrics import ARM_METRICS, EVALUATION_VERSION, RETRIEVAL_METRICS
from pipeline_lib.evaluation.metrics.generation import (
    bleu_from_sums,
    bleu_signature,
    bleu_statistics,
)
from pipeline_lib.evaluation.metrics.grounding import count_statuses
from pipeline_lib.evaluation.records import (
    BASE,
    CANDIDATE,
    CHAMPION,
    AnswerCounts,
    ArmAnswer,
    ArmName,
    Comparison,
    EvaluationSummary,
    QuestionRecord,
    RecordedQuote,
)
from pipeline_lib.evaluation.statistics import (
    Estimate,
    Floats,
    Resampling,
    Statistic,
    compare,
    estimate,
    estimate_mean,
    ratio_of_sums,
)

_Sums = Callable[[QuestionRecord, ArmAnswer], Sequence[float] | None]
"""What one question adds to a metric's sums; `None` where the metric does not apply."""


def retrieval_metrics(
    retrieved: Sequence[Sequence[str]], relevant: Sequence[Sequence[str]], cutoffs: Sequence[int]
) -> list[dict[str, float]]:
    """`recall@5` and so on of each query.

    Args:
        retrieved: ids per query, best first.
        relevant: relevant ids per query.
        cutoffs: the values of K.
    """
    from pipeline_lib.evaluation.metrics.modules import PER_QUESTION, RANKING_METRICS

    values: list[dict[str, float]] = [{} for _ in retrieved]
    for module in RANKING_METRICS:
        for k in cutoffs:
            result = module().compute(
                predictions=[list(ids) for ids in retrieved],
                references=[list(ids) for ids in relevant],
                k=k,
            )
            for row, value in zip(values, result[PER_QUESTION], strict=True):
                row[f"{module.metric}@{k}"] = value
    return values


def answer_metrics(
    records: Sequence[QuestionRecord], answers: Sequence[ArmAnswer]
) -> list[dict[str, float]]:
    """The per-question metrics of one arm's answers; one that does not apply is left out."""
    from pipeline_lib.evaluation.metrics.modules import (
        PER_QUESTION,
        QUOTE_METRICS,
        TEXT_METRICS,
    )

    values: list[dict[str, float]] = [{} for _ in records]

    def keep(name: str, scores: Sequence[float | None]) -> None:
        for row, score in zip(values, scores, strict=True):
            if score is not None:
                row[name] = score

    texts = [answer.final_answer for answer in answers]
    references = [record.reference_answer for record in records]
    for text_module in TEXT_METRICS:
        result = text_module().compute(predictions=texts, references=references)
        keep(text_module.metric, result[PER_QUESTION])
    quotes = [
        [{"status": quote.status, "chunk_id": _quoted(quote, record)} for quote in answer.quotes]
        for record, answer in zip(records, answers, strict=True)
    ]
    expectations = [
        {
            "oracle_chunk_id": record.oracle_chunk_id,
            "is_quote_expected": record.is_oracle_in_context,
        }
        for record in records
    ]
    for quote_module in QUOTE_METRICS:
        result = quote_module().compute(predictions=quotes, references=expectations)
        keep(quote_module.metric, result[PER_QUESTION])
    return values


def _quoted(quote: RecordedQuote, record: QuestionRecord) -> str | None:
    """The passage that a quote is from; any of several oracles counts as the first."""
    oracles = {passage.chunk_id for passage in record.passages if passage.is_oracle}
    return record.oracle_chunk_id if quote.chunk_id in oracles else quote.chunk_id


def summarize(
    records: Sequence[QuestionRecord], arms: Sequence[ArmName], config: EvaluateConfig
) -> EvaluationSummary:
    """All aggregates, with intervals and paired comparisons of the candidate.

    Raises:
        ValueError: there are no records.
    """
    resampling = Resampling(config.num_bootstrap_samples, config.confidence, config.seed)
    estimates: dict[str, dict[str, Estimate]] = {}
    for arm in arms:
        estimates[arm] = {}
        for metric in ARM_METRICS:
            sums = _sums(records, [arm], metric)
            if len(sums[arm]):
                estimates[arm][metric] = estimate(sums[arm], _statistic(metric), resampling)
    return EvaluationSummary(
        evaluation_version=EVALUATION_VERSION,
        split=config.split,
        num_questions=len(records),
        num_oracle_in_context=sum(record.is_oracle_in_context for record in records),
        context_size=config.context_size,
        confidence=config.confidence,
        arms=estimates,
        retrieval={
            name: estimate_mean([record.retrieval[name] for record in records], resampling)
            for measure in RETRIEVAL_METRICS
            for name in (f"{measure}@{k}" for k in config.cutoffs)
        },
        comparisons=tuple(_comparisons(records, arms, resampling)),
        answers={arm: _count_answers([r.answer(arm) for r in records]) for arm in arms},
        signatures={"bleu": bleu_signature()},
    )


def _comparisons(
    records: Sequence[QuestionRecord], arms: Sequence[ArmName], resampling: Resampling
) -> list[Comparison]:
    """The candidate against every other arm on every metric that applies."""
    found = []
    for against in (arm for arm in (BASE, CHAMPION) if arm in arms):
        for metric in ARM_METRICS:
            sums = _sums(records, [CANDIDATE, against], metric)
            if not len(sums[CANDIDATE]):
                continue
            result = compare(sums[CANDIDATE], sums[against], _statistic(metric), resampling)
            found.append(
                Comparison(metric=metric, arm=CANDIDATE, against=against, **asdict(result))
            )
    return found


def _sums(
    records: Sequence[QuestionRecord], arms: Sequence[ArmName], metric: str
) -> dict[str, Floats]:
    """What each question adds, per arm, shape (questions, sums); only where all arms have one."""
    question_sums = _QUESTION_SUMS.get(metric)

    def row(record: QuestionRecord, arm: str) -> Sequence[float] | None:
        answer = record.answer(arm)
        if question_sums is not None:
            return question_sums(record, answer)
        value = answer.metrics.get(metric)
        return None if value is None else (value, 1.0)

    rows = [[row(record, arm) for arm in arms] for record in records]
    paired = [row for row in rows if all(sums is not None for sums in row)]
    return {
        arm: np.array([row[column] for row in paired], dtype=np.float64)
        for column, arm in enumerate(arms)
    }


def _perplexity_from_sums(sums: Floats) -> Floats:
    result: Floats = np.exp(ratio_of_sums(sums))
    return result


def _statistic(metric: str) -> Statistic:
    return _STATISTICS.get(metric, ratio_of_sums)


_QUESTION_SUMS: dict[str, _Sums] = {
    "bleu": lambda record, answer: bleu_statistics(answer.final_answer, record.reference_answer),
    "answer_perplexity": lambda _record, answer: (answer.sum_nll, answer.num_target_tokens),
}
"""Corpus-level metrics; all others are means of `ArmAnswer.metrics`."""
_STATISTICS: dict[str, Statistic] = {
    "bleu": bleu_from_sums,
    "answer_perplexity": _perplexity_from_sums,
}


def _count_answers(answers: Sequence[ArmAnswer]) -> AnswerCounts:
    return AnswerCounts(
        num_answers=len(answers),
        num_with_answer_tag=sum(answer.has_answer_tag for answer in answers),
        num_refusals=sum(answer.is_refusal for answer in answers),
        num_truncated=sum(answer.finish_reason == "length" for answer in answers),
        num_with_quote=sum(bool(answer.quotes) for answer in answers),
        quotes=count_statuses(quote.status for answer in answers for quote in answer.quotes),
    )
