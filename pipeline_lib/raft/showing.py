"""Passages, questions and answers as prompts show them."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline_lib.raft.candidates import Candidate, Written
from pipeline_lib.raft.markup import escape
from pipeline_lib.raft.quotes import fold

_NO_ANSWER = "(not known)"


@dataclass(frozen=True)
class ShownText:
    """A passage for `rendering.render_document`."""

    title: str
    text: str


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
