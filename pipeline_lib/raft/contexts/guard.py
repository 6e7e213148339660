"""Whether a passage might answer a question, and so must not be its distractor.

A model that is taught to pass over a passage which answers learns that a right answer is wrong. The
guard compares texts only; it errs towards leaving a passage out.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline_lib.raft.quotes import fold
from pipeline_lib.raft.wording import containment, has_content_words, spelled


class AnswerGuard:
    """Knows one question's answer, evidence and oracle passages.

    Args:
        oracles: texts of the passages that answer, or that the question was written about.
        final_answer: the answer; empty where the corpus has none.
        quotes: the evidence.
        near_duplicate_threshold: share of the shorter passage's word 5-grams from which a passage
            counts as an oracle's text again.
    """

    def __init__(
        self,
        oracles: Sequence[str],
        final_answer: str,
        quotes: Sequence[str],
        *,
        near_duplicate_threshold: float,
    ) -> None:
        self._oracles = tuple(oracles)
        # A bare "no" or "all" stands in almost every passage, and answers next to no question.
        self._answer = spelled(final_answer) if has_content_words(final_answer, 1) else ""
        self._quotes = tuple(folded for quote in quotes if (folded := fold(quote)))
        self._near_duplicate_threshold = near_duplicate_threshold

    def danger(self, text: str) -> str | None:
        """Why `text` may answer the question, or `None`: the first reason that applies."""
        reason = self.evidence_in(text)
        if reason is None and any(
            containment(text, oracle) >= self._near_duplicate_threshold for oracle in self._oracles
        ):
            reason = "near_duplicate_of_oracle"
        return reason

    def evidence_in(self, text: str) -> str | None:
        """As `danger`, for a text that may be nearly an oracle's: one made from it."""
        if self._answer and self._answer in spelled(text):
            return "contains_answer"
        folded = fold(text)
        if any(quote in folded for quote in self._quotes):
            return "contains_quote"
        return None
