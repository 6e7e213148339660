"""Whether the teacher gives the same answer again and again."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline_lib.raft.candidates import Candidate, Rejection
from pipeline_lib.raft.gates.asking import BUDGET_SPENT, Asking
from pipeline_lib.raft.gates.base import AskingGate, final_answer, is_taught
from pipeline_lib.raft.matching import agreement

_TEMPERATURE = 0.7
_AGREES = 0.5
"""`matching.agreement` from which a sample says the same."""


class Consistency(AskingGate):
    """Enough of several sampled answers agree with the answer.

    Known answers are not asked for.

    Args:
        asking: the teacher.
        num_samples: answers per question, from 1.
        min_share: of the samples, those that must agree.
    """

    step = "consistency"

    def __init__(self, asking: Asking, num_samples: int, min_share: float) -> None:
        self._asking = asking
        self._num_samples = num_samples
        self._min_share = min_share

    def concerns(self, candidate: Candidate) -> bool:
        """See `AskingGate`."""
        return is_taught(candidate)

    def check_together(self, candidates: Sequence[Candidate]) -> list[Rejection | None]:
        """See `AskingGate`."""
        by_sample = [
            self._asking.answers_again(
                candidates, step=self.step, temperature=_TEMPERATURE, sample=number
            )
            for number in range(1, self._num_samples + 1)
        ]
        return [
            self._compare(candidate, answers)
            for candidate, *answers in zip(candidates, *by_sample, strict=True)
        ]

    def _compare(
        self, candidate: Candidate, answers: Sequence[str | Rejection | None]
    ) -> Rejection | None:
        answer = final_answer(candidate)
        num_agreeing = 0
        for sample in answers:
            if isinstance(sample, Rejection) and sample.reason == BUDGET_SPENT:
                return sample
            if isinstance(sample, str) and agreement(answer, sample) >= _AGREES:
                num_agreeing += 1
        if num_agreeing >= self._min_share * len(answers):
            return None
        others = [sample for sample in answers if isinstance(sample, str)]
        return Rejection(self.step, "samples_disagree", " | ".join(others))
