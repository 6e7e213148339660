"""The artifact of a retrieval evaluation: what its `metrics.json` and `per_query.parquet` hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from pipeline_lib.evaluation.statistics import Estimate

METRICS_FILE = "metrics.json"
PER_QUERY_FILE = "per_query.parquet"
REPORT_FILE = "report.html"
QRELS_FILE = "qrels.trec"
RUNS_FOLDER = "runs"

DENSE_SYSTEM = "dense"
SPARSE_SYSTEM = "sparse"
CONFIGURED_SYSTEM = "configured"

Decision = Literal["change", "no_clear_difference", "not_confirmed", "already_best"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SystemComparison(_Frozen):
    """`system` minus `against` on the same queries."""

    metric: str
    system: str
    against: str
    difference: float
    low: float
    high: float
    p_value: float
    """Two-sided, of the paired sign-flip permutation test."""
    adjusted_p_value: float
    """By Holm, over all comparisons of the table it stands in."""

    def is_clear(self, confidence: float) -> bool:
        """Whether it stays significant when all comparisons of its table are counted."""
        return self.adjusted_p_value <= 1 - confidence


class SystemResult(_Frozen):
    """One way to search, measured."""

    name: str
    description: str
    estimates: dict[str, Estimate]
    """Metric (`ndcg@10`) to mean with interval."""
    num_without_results: int
    """Queries for which it found nothing."""


class SettingResult(_Frozen):
    """One setting of a sweep, on the development queries."""

    name: str
    changes: dict[str, Any]
    """What differs from the settings in use; empty for those."""
    estimate: Estimate
    """Of the deciding metric."""
    comparison: SystemComparison | None
    """With the settings in use; `None` for those."""
    context_tokens: float | None
    """Mean tokens of the first K chunks, at the metric's cutoff: what a reader has to read."""


class SweepResult(_Frozen):
    """What a sweep compared and what it comes to."""

    metric: str
    level: str
    num_dev: int
    num_held_out: int
    settings: tuple[SettingResult, ...]
    """Best first."""
    chosen: str
    """The setting that was best on the development queries."""
    held_out: SystemComparison | None
    """Chosen against in use, on queries that played no part in choosing; `None` if the settings in
    use were best."""
    held_out_estimates: dict[str, Estimate]
    """Setting to the metric on the held-out queries, for the chosen one and the one in use."""
    decision: Decision
    recommendation: str
    """One or two sentences."""
    recommended: dict[str, Any]
    """Fields to change, empty unless the decision is `change`."""


class RetrievalSummary(_Frozen):
    """The content of `metrics.json`."""

    evaluation_version: int
    source: str
    """Where queries and judgements come from."""
    caveat: str = ""
    """What their choice does to the numbers, in a sentence; empty where nothing is known of it."""
    level: str
    num_queries: int
    num_relevant: int
    num_chunks: int
    num_unmatched: int
    depth: int
    metric: str
    cutoffs: tuple[int, ...]
    confidence: float
    num_bootstrap_samples: int
    systems: tuple[SystemResult, ...]
    comparisons: tuple[SystemComparison, ...]
    sweep: SweepResult | None
    dropped: dict[str, int]


class QueryRecord(_Frozen):
    """One query as one system answered it."""

    query_id: str
    query: str
    system: str
    num_relevant: int
    first_relevant_rank: int | None
    retrieved: tuple[str, ...]
    """Judged units, best first, down to the largest cutoff."""
    metrics: Mapping[str, float]


_PER_QUERY_SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("query", pa.string()),
        ("system", pa.string()),
        ("num_relevant", pa.int32()),
        ("first_relevant_rank", pa.int32()),
        ("retrieved", pa.list_(pa.string())),
        ("metrics", pa.map_(pa.string(), pa.float64())),
    ]
)


def write_query_records(path: Path, records: Iterable[QueryRecord]) -> None:
    """Write `per_query.parquet`."""
    rows = [record.model_dump() for record in records]
    pq.write_table(pa.Table.from_pylist(rows, schema=_PER_QUERY_SCHEMA), path)


def read_query_records(path: Path) -> list[QueryRecord]:
    """Read what `write_query_records` wrote."""
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return [QueryRecord.model_validate({**row, "metrics": dict(row["metrics"])}) for row in rows]


def read_retrieval_summary(directory: Path) -> RetrievalSummary:
    """Read `metrics.json` of a retrieval evaluation's folder."""
    return RetrievalSummary.model_validate_json((directory / METRICS_FILE).read_bytes())
