"""Rows spoilt on purpose, and how well a judge tells them from good ones."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline_lib.raft.candidates import Candidate, Written
from pipeline_lib.raft.keys import unit_interval
from pipeline_lib.raft.matching import agreement

FAULTS = ("another_answer", "changed_number", "cut_quote")
"""How rows are spoilt: another row's final answer, a number of the answer changed wherever the row
says it, quotes cut to their first words."""

_Z = 1.959963984540054
"""Of the standard normal distribution, for 95%."""
_ANOTHER = 0.5
"""Answers that agree less are different ones."""
_KEPT_SHARE = 1 / 3
"""Of a quote's words, what is left of a cut one."""
_NUMERAL = re.compile(r"\d+")


@dataclass(frozen=True)
class Spoilt:
    """A good row with one fault."""

    original: Candidate
    candidate: Candidate
    fault: str
    """One of `FAULTS`."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a judge made of good and of spoilt rows."""

    num_good: int
    num_good_kept: int
    num_spoilt: int
    num_spoilt_refused: int
    faults: Mapping[str, Mapping[str, int]]
    """By fault: `rows` there were, and `refused`."""

    @property
    def accuracy(self) -> float:
        """Share of all rows that were judged rightly."""
        return self._num_right / (self.num_good + self.num_spoilt)

    @property
    def interval(self) -> tuple[float, float]:
        """95% Wilson interval of the accuracy."""
        return wilson_interval(self._num_right, self.num_good + self.num_spoilt)

    def as_json(self) -> dict[str, Any]:
        """For `funnel.json`."""
        low, high = self.interval
        return {**asdict(self), "accuracy": self.accuracy, "low": low, "high": high}

    @property
    def _num_right(self) -> int:
        return self.num_good_kept + self.num_spoilt_refused


def choose_good(candidates: Sequence[Candidate], count: int, seed: int) -> list[Candidate]:
    """Up to `count` candidates, drawn by hash: their order does not matter."""

    def draw(candidate: Candidate) -> float:
        chunk_ids = [chunk.chunk_id for chunk in candidate.topic.chunks]
        return unit_interval(seed, "calibration", candidate.question, chunk_ids)

    return sorted(candidates, key=draw)[:count]


def spoil(candidates: Sequence[Candidate]) -> list[Spoilt]:
    """A spoilt row of each candidate, the faults by turns; none where no fault can be made."""
    spoilt = []
    for number, candidate in enumerate(candidates):
        turn = number % len(FAULTS)
        for fault in (*FAULTS[turn:], *FAULTS[:turn]):
            written = _with_fault(fault, number, candidates)
            if written is not None:
                spoilt.append(Spoilt(candidate, replace(candidate, written=written), fault))
                break
    return spoilt


def measure(
    verdicts_on_good: Sequence[bool | None],
    verdicts_on_spoilt: Sequence[bool | None],
    faults: Sequence[str],
) -> Calibration:
    """Count verdicts; `None` stands for an output that is none, and is wrong on any row."""
    rows, refused = Counter(faults), Counter[str]()
    for verdict, fault in zip(verdicts_on_spoilt, faults, strict=True):
        refused[fault] += verdict is False
    return Calibration(
        num_good=len(verdicts_on_good),
        num_good_kept=sum(verdict is True for verdict in verdicts_on_good),
        num_spoilt=len(verdicts_on_spoilt),
        num_spoilt_refused=refused.total(),
        faults={
            fault: {"rows": rows[fault], "refused": refused[fault]}
            for fault in FAULTS
            if rows[fault]
        },
    )


def wilson_interval(num_right: int, num_all: int) -> tuple[float, float]:
    """95% score interval of a proportion (Wilson 1927), which holds for few rows and near 1.

    Example: 8 of 10 is 0.490 to 0.943.
    """
    share, z2 = num_right / num_all, _Z**2
    middle = share + z2 / (2 * num_all)
    half = _Z * math.sqrt(share * (1 - share) / num_all + z2 / (4 * num_all**2))
    return (middle - half) / (1 + z2 / num_all), (middle + half) / (1 + z2 / num_all)


def _with_fault(fault: str, number: int, candidates: Sequence[Candidate]) -> Written | None:
    """What the candidate at `number` would have written with a fault; `None`: it cannot have it."""
    written = candidates[number].written
    if written is None:
        return None
    if fault == "another_answer":
        others = (*candidates[number + 1 :], *candidates[:number])
        return _with_answer_of(written, [other.written for other in others if other.written])
    return _with_changed_number(written) if fault == "changed_number" else _with_cut_quotes(written)


def _with_answer_of(written: Written, others: Sequence[Written]) -> Written | None:
    for other in others:
        if agreement(other.final_answer, written.final_answer) < _ANOTHER:
            return replace(written, final_answer=other.final_answer)
    return None


def _with_changed_number(written: Written) -> Written | None:
    numeral = _NUMERAL.search(written.final_answer)
    if numeral is None:
        return None
    whole = re.compile(rf"(?<!\d){numeral.group()}(?!\d)")
    changed = _changed(numeral.group())
    steps = [
        step.model_copy(update={"text": whole.sub(changed, step.text)}) for step in written.steps
    ]
    return Written(tuple(steps), whole.sub(changed, written.final_answer))


def _changed(digits: str) -> str:
    """Another number of as many digits: 1991 gives 1998, 5 gives 2."""
    return f"{digits[:-1]}{(int(digits[-1]) + 7) % 10}"


def _with_cut_quotes(written: Written) -> Written | None:
    steps = []
    for step in written.steps:
        if step.quote is not None:
            words = step.quote.text.split()
            kept = " ".join(words[: max(1, int(len(words) * _KEPT_SHARE))])
            cut = step.quote.model_copy(update={"text": kept})
            step = step.model_copy(update={"quote": cut})
        steps.append(step)
    return Written(tuple(steps), written.final_answer) if written.quotes else None
