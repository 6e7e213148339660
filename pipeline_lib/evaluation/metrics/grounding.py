"""Metrics of quotation: does an answer prove itself with the words of its passages?

They take the outcome of `pipeline_lib.raft.quotes.verify_quote` for every quote of one answer.
All apply only where a quote is expected, that is where the oracle passage is in the context;
elsewhere refusing is right, and a rate would reward or punish by the retrieval's failure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple, get_args

from pipeline_lib.raft.quotes import QuoteStatus

VERBATIM: QuoteStatus = "verbatim"
QUOTE_STATUSES: tuple[str, ...] = get_args(QuoteStatus)


class QuoteOutcome(NamedTuple):
    """How one quote fared."""

    status: str
    """One of `QUOTE_STATUSES`."""
    chunk_id: str | None
    """The passage that holds the quote, if any."""


def verbatim_quote_rate(quotes: Sequence[QuoteOutcome]) -> float:
    """Share of the quotes that are verbatim in the passage they cite; without any quote 0."""
    if not quotes:
        return 0.0
    return sum(quote.status == VERBATIM for quote in quotes) / len(quotes)


def all_quotes_valid(quotes: Sequence[QuoteOutcome]) -> float:
    """1.0 when there is a quote and all are verbatim in the passages they cite, else 0.0."""
    return float(bool(quotes) and all(quote.status == VERBATIM for quote in quotes))


def oracle_cited(quotes: Sequence[QuoteOutcome], oracle_chunk_id: str) -> float:
    """1.0 when a verbatim quote comes from the oracle passage, else 0.0."""
    return float(
        any(quote.status == VERBATIM and quote.chunk_id == oracle_chunk_id for quote in quotes)
    )


def count_statuses(statuses: Iterable[str]) -> dict[str, int]:
    """Quotes by status; every status is there, also with 0."""
    counts = Counter(statuses)
    return {status: counts[status] for status in QUOTE_STATUSES}
