"""What gates have in common: looking at candidates one by one, or at some of them together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from pipeline_lib.raft.candidates import Candidate, Rejection


class SingleGate(ABC):
    """A gate that looks at each candidate by itself."""

    step: str

    def check(self, candidates: Sequence[Candidate]) -> list[Rejection | None]:
        """See `Gate`."""
        return [self.check_one(candidate) for candidate in candidates]

    @abstractmethod
    def check_one(self, candidate: Candidate) -> Rejection | None:
        """Why a candidate fails, or `None`."""


class AskingGate(ABC):
    """A gate that asks the teacher about those candidates that it concerns; the others pass."""

    step: str

    def check(self, candidates: Sequence[Candidate]) -> list[Rejection | None]:
        """See `Gate`."""
        results: list[Rejection | None] = [None] * len(candidates)
        places = [n for n, candidate in enumerate(candidates) if self.concerns(candidate)]
        if places:
            checked = self.check_together([candidates[place] for place in places])
            for place, result in zip(places, checked, strict=True):
                results[place] = result
        return results

    @abstractmethod
    def concerns(self, candidate: Candidate) -> bool:
        """Whether the teacher is to be asked about a candidate."""

    @abstractmethod
    def check_together(self, candidates: Sequence[Candidate]) -> list[Rejection | None]:
        """For each of some candidates, at least one, why it fails, or `None`; in order."""


def is_answered(candidate: Candidate) -> bool:
    """Whether it has an answer from the corpus, whoever knew it."""
    return candidate.written is not None and candidate.is_answerable


def is_taught(candidate: Candidate) -> bool:
    """Whether it has an answer from the corpus that the teacher found."""
    return is_answered(candidate) and candidate.known_answer is None


def final_answer(candidate: Candidate) -> str:
    """The answer; empty before there is one."""
    return candidate.written.final_answer if candidate.written is not None else ""
