"""Whether an answer's quotes are where they are said to be, and bear the answer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from pipeline_lib.config import GateConfig
from pipeline_lib.raft.candidates import Candidate, Rejection
from pipeline_lib.raft.gates.base import SingleGate, final_answer
from pipeline_lib.raft.quotes import verify_quote
from pipeline_lib.raft.rows import Quote
from pipeline_lib.raft.wording import content_words, spelled, words

_CACHED_PASSAGES = 1024
"""A passage is asked about several times, and then no more."""


class VerifiedQuotes(SingleGate):
    """Every quote verbatim in the oracle that it names, enough of them, and a grounded answer.

    Writers verify quotes as they read them; this looks once more, at what the row will hold.
    How far an answer that was brought is grounded is not asked.

    Args:
        config: how many quotes, how long, and which share of the answer.
    """

    step = "quotes"

    def __init__(self, config: GateConfig) -> None:
        self._config = config

    def check_one(self, candidate: Candidate) -> Rejection | None:
        """See `SingleGate`."""
        if candidate.written is None or not candidate.is_answerable:
            return None
        for quote in candidate.written.quotes:
            problem = quote_problem(quote, candidate)
            if problem is not None:
                return Rejection(self.step, problem, quote.text)
        return self._too_few(candidate.written.quotes) or self._ungrounded(candidate)

    def _too_few(self, quotes: Sequence[Quote]) -> Rejection | None:
        long_enough = [q for q in quotes if len(q.text) >= self._config.min_quote_chars]
        if len(long_enough) >= self._config.min_quotes:
            return None
        reason = "too_short" if len(quotes) >= self._config.min_quotes else "too_few"
        return Rejection(self.step, reason, " … ".join(quote.text for quote in quotes))

    def _ungrounded(self, candidate: Candidate) -> Rejection | None:
        answer = final_answer(candidate)
        if candidate.known_answer is not None:
            return None
        if grounded_share(answer, candidate) >= self._config.min_grounded_share:
            return None
        return Rejection(self.step, "answer_not_grounded", answer)


def quote_problem(quote: Quote, candidate: Candidate) -> str | None:
    """What is wrong with a quote: `None` when its oracle has it word for word where it says.

    Else the status that `verify_quote` gives it, or `misplaced` when only its offsets are wrong.
    """
    for number, chunk in enumerate(candidate.oracles, start=1):
        if chunk.chunk_id != quote.chunk_id:
            continue
        if quote.text and chunk.text[quote.start : quote.end] == quote.text:
            return None
        status = verify_quote(quote.text, number, candidate.oracles).status
        return "misplaced" if status == "verbatim" else status
    return verify_quote(quote.text, None, candidate.oracles).status


def grounded_share(answer: str, candidate: Candidate) -> float:
    """Of the answer's content words, those that the oracles have; 1 for an answer without any."""
    said = set(content_words(answer))
    if not said:
        return 1.0
    spellings = [spelled(chunk.text) for chunk in candidate.oracles]
    if all(any(f" {word} " in text for text in spellings) for word in words(answer)):
        return 1.0  # word for word, as most answers are: no need to look at stems
    known = [_content_of(chunk.text) for chunk in candidate.oracles]
    return sum(any(word in stems for stems in known) for word in said) / len(said)


@lru_cache(maxsize=_CACHED_PASSAGES)
def _content_of(text: str) -> frozenset[str]:
    return frozenset(content_words(text))
