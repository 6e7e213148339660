"""The tuned model against the untuned one and BM25, on questions about held-out documents.

Each question looks for the passage that answers it among all passages of the corpus, by exact
search with the formulas of the index. An **arm** is one way to search: `bm25`, or a model's dense
search (`tuned/dense`), or that joined with BM25 as search joins them by default (`tuned/hybrid`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from pipeline_lib.config import RetrievalConfig, TuneRetrieverConfig
from pipeline_lib.evaluation.metrics.retrieval import MEASURES
from pipeline_lib.evaluation.retrieval.exact import Branches, fuse
from pipeline_lib.evaluation.statistics import (
    Estimate,
    Floats,
    Resampling,
    compare_columns,
    estimate_columns,
)
from pipeline_lib.raft.quotes import fold
from pipeline_lib.retrieval.schema import BM25, DENSE
from pipeline_lib.retriever.pairs import Pair

MEASURING_VERSION = 1
"""Raised when the same models and questions may give other numbers."""
EVALUATION_FILE = "evaluation.json"
QUESTIONS_FILE = "questions.parquet"

BM25_ARM = "bm25"
UNTUNED = "untuned"
TUNED = "tuned"
CHAMPION = "champion"
SEARCHES = ("dense", "hybrid")

SEARCH_CONFIG = RetrievalConfig()
"""How hybrid search joins its branches here: as search does unless it is told otherwise."""
_DEPTH = 100
"""Ranks beyond it count as not found."""
_CUTOFF = 10
"""Of MRR and nDCG."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class QuestionResult(_Frozen):
    """One question: where each arm found its passage."""

    question_id: str
    question: str
    chunk_ids: tuple[str, ...]
    """The passages that answer it; more than one only where rows share a question."""
    ranks: dict[str, int | None]
    """Arm to the rank of the first of them, from 1; `None`: not among the first hundred."""
    metrics: dict[str, dict[str, float]]
    """Arm to metric to value."""


class ArmComparison(_Frozen):
    """`arm` minus `against` on the same questions."""

    metric: str
    arm: str
    against: str
    difference: float
    low: float
    high: float
    p_value: float
    num: int


class RetrieverEvaluation(_Frozen):
    """The content of `evaluation.json`."""

    measuring_version: int
    split: str
    num_questions: int
    num_documents: int
    """That the questions are about."""
    num_passages: int
    """That they are looked for among."""
    confidence: float
    arms: dict[str, dict[str, Estimate]]
    comparisons: tuple[ArmComparison, ...]

    def comparison(self, metric: str, arm: str, against: str) -> ArmComparison | None:
        """One comparison, if it was made."""
        for each in self.comparisons:
            if (each.metric, each.arm, each.against) == (metric, arm, against):
                return each
        return None


@dataclass(frozen=True)
class Question:
    """A question with every passage that some row says answers it."""

    question_id: str
    text: str
    chunk_ids: tuple[str, ...]


def questions_of(pairs: Iterable[Pair]) -> list[Question]:
    """Questions by id (that of their first row); equal texts are one question."""
    found: dict[str, Question] = {}
    for pair in sorted(pairs, key=lambda pair: pair.row_id):
        key = fold(pair.question).casefold()
        before = found.get(key)
        known = before.chunk_ids if before else ()
        first = before or Question(pair.row_id, pair.question, ())
        found[key] = Question(first.question_id, first.text, (*known, pair.chunk_id))
    return list(found.values())


def search_depth(config: TuneRetrieverConfig) -> int:
    """How many passages of each branch are looked at."""
    return max(_DEPTH, SEARCH_CONFIG.prefetch_limit, *config.cutoffs)


def rankings(branches: Sequence[Branches], model: str) -> dict[str, list[list[str]]]:
    """Arm to the chunk ids found for each question, best first, for one model.

    Args:
        branches: of each question, at least as deep as `search_depth`.
        model: `untuned`, `tuned` or `champion`.
    """
    hybrid = SEARCH_CONFIG.model_copy(update={"mode": "hybrid"})
    return {
        f"{model}/dense": [[found.chunk_id for found in each[DENSE]] for each in branches],
        f"{model}/hybrid": [[found.chunk_id for found in fuse(each, hybrid)] for each in branches],
    }


def bm25_rankings(branches: Sequence[Branches]) -> dict[str, list[list[str]]]:
    """The arm `bm25`."""
    return {BM25_ARM: [[found.chunk_id for found in each.get(BM25, ())] for each in branches]}


def score_questions(
    questions: Sequence[Question],
    arms: Mapping[str, Sequence[Sequence[str]]],
    config: TuneRetrieverConfig,
) -> list[QuestionResult]:
    """Metrics of every question under every arm."""
    results = []
    for number, question in enumerate(questions):
        relevance = dict.fromkeys(question.chunk_ids, 1)
        found = {arm: list(ranking[number]) for arm, ranking in arms.items()}
        results.append(
            QuestionResult(
                question_id=question.question_id,
                question=question.text,
                chunk_ids=question.chunk_ids,
                ranks={arm: _rank(ids, relevance) for arm, ids in found.items()},
                metrics={arm: _metrics(ids, relevance, config) for arm, ids in found.items()},
            )
        )
    return results


def metric_names(config: TuneRetrieverConfig) -> list[str]:
    """What is measured: `recall@1`, …, `mrr@10`, `ndcg@10`."""
    cutoffs = sorted(set(config.cutoffs))
    return [f"recall@{k}" for k in cutoffs] + [f"mrr@{_CUTOFF}", f"ndcg@{_CUTOFF}"]


def summarize(
    results: Sequence[QuestionResult],
    compared: Sequence[tuple[str, str]],
    config: TuneRetrieverConfig,
    *,
    num_documents: int,
    num_passages: int,
) -> RetrieverEvaluation:
    """Means and comparisons with their intervals.

    Args:
        results: of `score_questions`.
        compared: pairs of arms, the second subtracted from the first.
        config: the resampling and the cutoffs.
        num_documents: that the questions are about.
        num_passages: of the corpus.
    """
    names = metric_names(config)
    arms = list(results[0].metrics)
    resampling = Resampling(config.num_bootstrap_samples, config.confidence, config.seed)
    columns = {arm: _columns(results, arm, names) for arm in arms}
    estimates = iter(estimate_columns(np.hstack(list(columns.values())), resampling))
    differences = compare_columns(
        np.hstack([columns[arm] for arm, _ in compared]),
        np.hstack([columns[against] for _, against in compared]),
        resampling,
    )
    labels = [(metric, arm, against) for arm, against in compared for metric in names]
    return RetrieverEvaluation(
        measuring_version=MEASURING_VERSION,
        split="test",
        num_questions=len(results),
        num_documents=num_documents,
        num_passages=num_passages,
        confidence=config.confidence,
        arms={arm: {name: next(estimates) for name in names} for arm in arms},
        comparisons=tuple(
            ArmComparison(metric=metric, arm=arm, against=against, **vars(difference))
            for (metric, arm, against), difference in zip(labels, differences, strict=True)
        ),
    )


_QUESTION_SCHEMA = pa.schema(
    [
        ("question_id", pa.string()),
        ("question", pa.string()),
        ("chunk_ids", pa.list_(pa.string())),
        ("ranks", pa.map_(pa.string(), pa.int32())),
        ("metrics", pa.map_(pa.string(), pa.map_(pa.string(), pa.float64()))),
    ]
)


def write_evaluation(
    folder: Path, evaluation: RetrieverEvaluation, results: Sequence[QuestionResult]
) -> None:
    """Write `evaluation.json` and `questions.parquet`."""
    (folder / EVALUATION_FILE).write_text(evaluation.model_dump_json(indent=1), encoding="utf-8")
    rows = [result.model_dump() for result in results]
    pq.write_table(pa.Table.from_pylist(rows, schema=_QUESTION_SCHEMA), folder / QUESTIONS_FILE)


def read_evaluation(folder: Path) -> RetrieverEvaluation:
    """Read `evaluation.json`."""
    return RetrieverEvaluation.model_validate_json((folder / EVALUATION_FILE).read_bytes())


def read_questions(folder: Path) -> list[QuestionResult]:
    """Read `questions.parquet`."""
    return [
        QuestionResult.model_validate(
            {
                **row,
                "ranks": dict(row["ranks"]),
                "metrics": {arm: dict(values) for arm, values in row["metrics"]},
            }
        )
        for row in pq.read_table(folder / QUESTIONS_FILE).to_pylist()
    ]


def _rank(found: Sequence[str], relevance: Mapping[str, int]) -> int | None:
    ranks = (rank for rank, chunk_id in enumerate(found, start=1) if chunk_id in relevance)
    return next(ranks, None)


def _metrics(
    found: Sequence[str], relevance: Mapping[str, int], config: TuneRetrieverConfig
) -> dict[str, float]:
    values = {}
    for name in metric_names(config):
        measure, _, cutoff = name.partition("@")
        values[name] = MEASURES[measure](found, relevance, int(cutoff))
    return values


def _columns(results: Sequence[QuestionResult], arm: str, names: Sequence[str]) -> Floats:
    """`[questions, metrics]` of one arm."""
    rows = [[result.metrics[arm][name] for name in names] for result in results]
    return np.asarray(rows, dtype=np.float64)
