"""Whether a passage might answer a question, and so must not be its distractor.

A model that is taught to pass over a passage which answers learns that a right answer is wrong. The
guard compares texts only; it errs towards leaving a passage out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline_lib.raft.quotes import fold
from pipeline_lib.raft.wording import containment, content_words


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
        is_telling = bool(content_words(final_answer))
        self._answer = words_in_order(final_answer) if is_telling else None
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
        folded = fold(text)
        if self._answer is not None and self._answer.search(folded):
            return "contains_answer"
        if any(quote in folded for quote in self._quotes):
            return "contains_quote"
        return None


def words_in_order(answer: str) -> re.Pattern[str] | None:
    """Pattern of the answer's words, whatever case and punctuation; `None` without words."""
    words = re.findall(r"\w+", answer)
    if not words:
        return None
    return re.compile(r"\b" + r"\W+".join(map(re.escape, words)) + r"\b", re.IGNORECASE)
