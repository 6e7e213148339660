"""A model that grades rows by a rubric, once it has shown that it can.

Before a judge counts, it grades rows that passed every other gate and copies of them that were
spoilt on purpose. One that cannot tell them apart is not used, and the run goes on without it:
a weak judge throws good rows away and calls the rest checked.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

from pipeline_lib.artifacts.manifest import canonical_json
from pipeline_lib.config.questions import JudgeConfig
from pipeline_lib.generation.base import Completion, GenerationParams
from pipeline_lib.generation.structured import parse_json
from pipeline_lib.raft.candidates import Candidate, Rejection
from pipeline_lib.raft.gates.asking import BUDGET_SPENT, Asking
from pipeline_lib.raft.gates.base import AskingGate, is_answered
from pipeline_lib.raft.gates.calibration import Calibration, choose_good, measure, spoil
from pipeline_lib.raft.markup import escape
from pipeline_lib.raft.quotes import fold
from pipeline_lib.raft.showing import shown_question

logger = logging.getLogger(__name__)

CRITERIA = ("question", "answer", "support", "quotes")
"""What the template `judge` has graded, each from 1 to 5."""

_FEWEST_GOOD = 4
"""Good rows, each with a spoilt copy, without which there is no calibration."""
_VERDICT_TOKENS = 200
_GRADE = re.compile(
    rf"[\"'*]*\b({'|'.join(CRITERIA)})\b[\"'*]*\s*[:=]\s*[\"'*]*([1-5])\b(?!\s*\.\d)", re.IGNORECASE
)
_GRADE_SCHEMA = {"type": "integer", "minimum": 1, "maximum": 5}
_SCHEMA = {
    "type": "object",
    "properties": dict.fromkeys(CRITERIA, _GRADE_SCHEMA) | {"comment": {"type": "string"}},
    "required": [*CRITERIA, "comment"],
    "additionalProperties": False,
}


class Judge(AskingGate):
    """Every criterion graded high enough, by a judge that was calibrated.

    The first batch with at least four answered questions calibrates: candidates before it pass
    unjudged, which the report counts. Refusals have nothing to grade.

    Args:
        asking: the teacher, which is the judge.
        config: bounds.
    """

    step = "judge"

    def __init__(self, asking: Asking, config: JudgeConfig) -> None:
        self._asking = asking
        self._config = config
        self._num_unjudged = 0
        self.calibration: Calibration | None = None
        """`None` until there were rows enough."""

    @property
    def is_trusted(self) -> bool:
        """Whether it was calibrated, and is accurate enough."""
        calibration = self.calibration
        return calibration is not None and calibration.accuracy >= self._config.min_accuracy

    def report(self) -> dict[str, Any]:
        """How far it was trusted and why, for `funnel.json`."""
        measured = {} if self.calibration is None else self.calibration.as_json()
        return {"is_trusted": self.is_trusted, "num_unjudged": self._num_unjudged, **measured}

    def concerns(self, candidate: Candidate) -> bool:
        """See `AskingGate`."""
        return is_answered(candidate)

    def check_together(self, candidates: Sequence[Candidate]) -> list[Rejection | None]:
        """See `AskingGate`."""
        if self.calibration is None and len(candidates) >= _FEWEST_GOOD:
            self._calibrate(candidates)
        if self.is_trusted:
            return [self._reject(completion) for completion in self._grade(candidates)]
        self._num_unjudged += len(candidates)
        return [None] * len(candidates)

    def _calibrate(self, candidates: Sequence[Candidate]) -> None:
        num_good = self._config.num_calibration_rows // 2
        spoilt = spoil(choose_good(candidates, num_good, self._asking.seed))
        if len(spoilt) < _FEWEST_GOOD:
            return
        rows = [*(each.original for each in spoilt), *(each.candidate for each in spoilt)]
        completions = self._grade(rows)
        if any(completion.finish_reason == "budget" for completion in completions):
            return
        verdicts = [self._verdict(read_grades(completion.text)) for completion in completions]
        calibration = measure(
            verdicts[: len(spoilt)], verdicts[len(spoilt) :], [each.fault for each in spoilt]
        )
        self.calibration = calibration
        if not self.is_trusted:
            low, high = calibration.interval
            logger.warning(
                "The judge %s is not used: it was right about %.0f%% of %d good and spoilt rows "
                "(95%% interval %.0f%% to %.0f%%), and min_accuracy is %.0f%%",
                self._asking.teacher.model_identity,
                100 * calibration.accuracy,
                calibration.num_good + calibration.num_spoilt,
                100 * low,
                100 * high,
                100 * self._config.min_accuracy,
            )

    def _grade(self, candidates: Sequence[Candidate]) -> list[Completion]:
        prompts = [
            self._asking.prompt(
                "judge",
                documents=self._asking.documents(candidate),
                question=shown_question(candidate),
                answer=shown_answer(candidate),
            )
            for candidate in candidates
        ]
        schema = canonical_json(_SCHEMA).decode()
        params = GenerationParams(
            max_new_tokens=_VERDICT_TOKENS, seed=self._asking.seed, json_schema=schema
        )
        return self._asking.teacher.generate(prompts, params, step=self.step)

    def _verdict(self, grades: dict[str, int] | None) -> bool | None:
        return None if grades is None else min(grades.values()) >= self._config.min_grade

    def _reject(self, completion: Completion) -> Rejection | None:
        if completion.finish_reason == "budget":
            return Rejection(self.step, BUDGET_SPENT)
        grades = read_grades(completion.text)
        if grades is None:
            return Rejection(self.step, "no_verdict", completion.text)
        if self._verdict(grades):
            return None
        worst = min(CRITERIA, key=lambda name: grades[name])
        return Rejection(self.step, f"low_{worst}", completion.text)


def shown_answer(candidate: Candidate) -> str:
    """Reasoning, quotes and final answer as the judge sees them, a line each."""
    numbers = {chunk.chunk_id: n for n, chunk in enumerate(candidate.oracles, start=1)}
    written = candidate.written
    if written is None:
        return ""
    lines = []
    for step in written.steps:
        if step.text:
            lines.append(fold(step.text))
        if step.quote is not None:
            where = numbers.get(step.quote.chunk_id, "?")
            lines.append(f'Quote from document {where}: "{fold(step.quote.text)}"')
    lines.append(f"Final answer: {fold(written.final_answer)}")
    return "\n".join(escape(line) for line in lines)


def read_grades(text: str) -> dict[str, int] | None:
    """The grade of every criterion, from JSON or from lines; `None` where one is missing.

    Of several grades for a criterion the first counts.
    """
    value = parse_json(text)
    pairs = list(value.items()) if isinstance(value, dict) else _GRADE.findall(text)
    grades: dict[str, int] = {}
    for name, grade in pairs:
        number = _as_grade(grade)
        if number is not None:
            grades.setdefault(str(name).lower(), number)
    complete = all(name in grades for name in CRITERIA)
    return {name: grades[name] for name in CRITERIA} if complete else None


def _as_grade(value: object) -> int | None:
    text = str(value).strip() if isinstance(value, int | float | str) else ""
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if number in (1, 2, 3, 4, 5) and not isinstance(value, bool) else None
