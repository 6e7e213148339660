"""What a dataset consists of, counted in one pass over its files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline_lib.raft.keys import unit_interval
from pipeline_lib.raft.quotes import verify_quote
from pipeline_lib.raft.rows import Quote, RaftRow, Split

BySplit = Counter[tuple[Split, str]]
"""Number of rows (or passages) by split and name."""


@dataclass
class QuoteStatistics:
    """The quotes of all `answer` rows."""

    num_quotes: int = 0
    num_verbatim: int = 0
    """Found again, word for word, in the passage that they cite."""
    lengths: Counter[int] = field(default_factory=Counter)
    """Characters to number of quotes."""
    num_rows: int = 0
    """Rows that quote."""
    sum_covered: float = 0.0
    """Over these rows, the shares of their oracles' characters that are quoted."""

    @property
    def median_length(self) -> int:
        """In characters; of an even number the lower one."""
        seen = 0
        for length in sorted(self.lengths):
            seen += self.lengths[length]
            if 2 * seen >= self.num_quotes:
                return length
        return 0

    @property
    def mean_length(self) -> float:
        """In characters."""
        return sum(length * n for length, n in self.lengths.items()) / max(1, self.num_quotes)

    @property
    def mean_covered(self) -> float:
        """Share of its oracles' text that a row quotes."""
        return self.sum_covered / max(1, self.num_rows)

    def add(self, row: RaftRow) -> None:
        """Count a row's quotes."""
        numbers = {passage.chunk_id: number for number, passage in enumerate(row.context, start=1)}
        for quote in row.quotes:
            check = verify_quote(quote.text, numbers[quote.chunk_id], row.context)
            self.num_quotes += 1
            self.num_verbatim += check.status == "verbatim"
            self.lengths[len(quote.text)] += 1
        if row.quotes:
            self.num_rows += 1
            self.sum_covered += _covered_share(row)


@dataclass
class DatasetStatistics:
    """The mixes of a dataset. All but `tasks` are about the rows of the task `answer`."""

    tasks: BySplit = field(default_factory=Counter)
    kinds: BySplit = field(default_factory=Counter)
    styles: BySplit = field(default_factory=Counter)
    targets: BySplit = field(default_factory=Counter)
    origins: BySplit = field(default_factory=Counter)
    """Of the passages."""
    question_sources: BySplit = field(default_factory=Counter)
    answer_sources: BySplit = field(default_factory=Counter)
    quotes: QuoteStatistics = field(default_factory=QuoteStatistics)
    samples: dict[tuple[str, str], RaftRow] = field(default_factory=dict)
    """A training row for each kind and target."""

    @property
    def num_rows(self) -> int:
        """All rows, of whatever task."""
        return self.tasks.total()

    def num_of(self, split: Split) -> int:
        """RAFT rows of a split."""
        return self.tasks[split, "answer"]

    def add(self, row: RaftRow) -> None:
        """Count a row."""
        self.tasks[row.split, row.task] += 1
        if row.task != "answer":
            return
        self.kinds[row.split, row.kind] += 1
        self.styles[row.split, row.style] += 1
        self.targets[row.split, row.target] += 1
        self.origins.update((row.split, passage.origin) for passage in row.context)
        self.question_sources[row.split, row.provenance.question_source] += 1
        self.answer_sources[row.split, row.provenance.answer_source] += 1
        self.quotes.add(row)
        if row.split == "train":
            self._sample(row)

    def _sample(self, row: RaftRow) -> None:
        """Keep the row whose id draws lowest, so that the order of rows does not matter."""
        key = (row.kind, row.target)
        kept = self.samples.get(key)
        if kept is None or _draw(row) < _draw(kept):
            self.samples[key] = row


def _draw(row: RaftRow) -> float:
    return unit_interval("sample", row.row_id)


def _covered_share(row: RaftRow) -> float:
    """Characters of the oracles that are in a quote, as a share of all."""
    oracles = [passage for passage in row.context if passage.role == "oracle"]
    covered = sum(
        _num_covered(quote for quote in row.quotes if quote.chunk_id == oracle.chunk_id)
        for oracle in oracles
    )
    return covered / sum(len(oracle.text) for oracle in oracles)


def _num_covered(quotes: Iterable[Quote]) -> int:
    """Characters in the union of spans of one passage."""
    covered = reached = 0
    for start, end in sorted((quote.start, quote.end) for quote in quotes):
        covered += max(0, end - max(start, reached))
        reached = max(reached, end)
    return covered
