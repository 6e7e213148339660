"""Whether questions and answers are free of personal data and secrets."""

from __future__ import annotations

from pipeline_lib.config.corpus import FilterConfig
from pipeline_lib.corpus.filters import redact
from pipeline_lib.raft.candidates import Candidate, Rejection
from pipeline_lib.raft.gates.base import SingleGate
from pipeline_lib.raft.gates.texts import Part, step_of, text_of

_EVERYTHING = FilterConfig(personal_data="redact", secrets="redact")


class NoPersonalData(SingleGate):
    """None of what the corpus filters know as personal data or as secrets.

    What a rejection shows is redacted.

    Args:
        part: what to look at.
    """

    QUESTION_STEP = "personal_data"

    def __init__(self, part: Part) -> None:
        self.step = step_of(part, self.QUESTION_STEP)
        self._part: Part = part

    def check_one(self, candidate: Candidate) -> Rejection | None:
        """See `SingleGate`."""
        redacted, found = redact(text_of(candidate, self._part), _EVERYTHING)
        return Rejection(self.step, f"has_{min(found)}", redacted) if found else None


def redact_question(question: str) -> str:
    """A question as rejects may show it."""
    return redact(question, _EVERYTHING)[0]
