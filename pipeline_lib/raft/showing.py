"""Passages, questions and answers as prompts show them."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline_lib.raft.candidates import Candidate, Written
from pipeline_lib.raft.markup import escape
from pipeline_lib.raft.quotes import QuotablePassage, fold

_NO_ANSWER = "(not known)"


@dataclass(frozen=True)
class ShownPassage:
    """A passage as a prompt shows it: it can be rendered, and quoted."""

    passage: QuotablePassage
    title: str
    """Of its document."""

    @property
    def chunk_id(self) -> str:
        """Names it."""
        return self.passage.chunk_id

    @property
    def text(self) -> str:
        """Its text."""
        return self.passage.text


def written_of(candidate: Candidate) -> Written:
    """The answer of a candidate that has one.

    Raises:
        ValueError: it was not answered yet.
    """
    if candidate.written is None:
        raise ValueError(f"the candidate {candidate.question!r} has no answer yet")
    return candidate.written


def shown_question(candidate: Candidate) -> str:
    """The question on one line, harmless."""
    return escape(fold(candidate.question))


def shown_answer(candidate: Candidate) -> str:
    """The answer on one line, harmless; a remark where the corpus has none."""
    if not candidate.is_answerable:
        return _NO_ANSWER
    return escape(fold(written_of(candidate).final_answer))
