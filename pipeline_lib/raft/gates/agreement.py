"""Whether the teacher, asked again with the oracle alone, comes to the same answer."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline_lib.raft.candidates import Candidate, Rejection
from pipeline_lib.raft.gates.asking import Asking
from pipeline_lib.raft.gates.base import AskingGate, final_answer, is_taught
from pipeline_lib.raft.matching import agreement


class Agreement(AskingGate):
    """A second answer from the oracle agrees with the first.

    Only what a teacher answered itself is asked again: a known answer needs no confirmation.

    Args:
        asking: the teacher.
        min_agreement: lowest `matching.agreement`, above 0.
    """

    step = "agreement"

    def __init__(self, asking: Asking, min_agreement: float) -> None:
        self._asking = asking
        self._min_agreement = min_agreement

    def concerns(self, candidate: Candidate) -> bool:
        """See `AskingGate`."""
        return is_taught(candidate)

    def check_together(self, candidates: Sequence[Candidate]) -> list[Rejection | None]:
        """See `AskingGate`."""
        answers = self._asking.answers_again(candidates, step=self.step)
        return [
            self._compare(candidate, again)
            for candidate, again in zip(candidates, answers, strict=True)
        ]

    def _compare(self, candidate: Candidate, again: str | Rejection | None) -> Rejection | None:
        if isinstance(again, Rejection):
            return again
        if again is None:
            return Rejection(self.step, "refused")
        agrees = agreement(final_answer(candidate), again) >= self._min_agreement
        return None if agrees else Rejection(self.step, "another_answer", again)
