"""The gates that a configuration asks for, and running candidates through them.

    question · language · personal_data · toxicity · new        before the search
    round_trip                                                  after it
    answer · quotes · reasoning · agreement · closed_book · consistency · judge

Cheap gates come first, those that ask the teacher last. What language, personal data and toxicity
find in an answer is counted under `answer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.generation.base import MeteredGenerator
from pipeline_lib.raft.candidates import Candidate, Gate, Rejection
from pipeline_lib.raft.funnel import Funnel, Reject
from pipeline_lib.raft.gates.agreement import Agreement
from pipeline_lib.raft.gates.asking import Asking
from pipeline_lib.raft.gates.closed_book import NeedsDocument
from pipeline_lib.raft.gates.consistency import Consistency
from pipeline_lib.raft.gates.duplicates import AskedBefore, NewQuestion, NewReasoning, SaidBefore
from pipeline_lib.raft.gates.format import AnswerForm, QuestionForm, ReasoningForm
from pipeline_lib.raft.gates.judge import Judge
from pipeline_lib.raft.gates.language import WantedLanguage
from pipeline_lib.raft.gates.personal_data import NoPersonalData, redact_question
from pipeline_lib.raft.gates.quotes import VerifiedQuotes
from pipeline_lib.raft.gates.round_trip import RoundTrip
from pipeline_lib.raft.gates.texts import Part
from pipeline_lib.raft.gates.toxicity import NoToxicWords, ToxicWords
from pipeline_lib.raft.prompts.library import PromptLibrary


@runtime_checkable
class ReportingGate(Protocol):
    """A gate that has something to say of itself."""

    def report(self) -> Mapping[str, Any]:
        """For `funnel.json`."""


def question_gates(config: SynthesizeConfig, *, asked: AskedBefore | None = None) -> list[Gate]:
    """What a question must pass before it is searched for.

    Args:
        config: which gates, and their bounds.
        asked: the questions of rows that are taken over; new ones are added.

    Raises:
        ConfigError: the user's list of toxic words cannot be read.
    """
    if asked is None:
        asked = AskedBefore(config.questions.near_duplicate_threshold)
    return [QuestionForm(config.gates), *_text_gates(config, "question"), NewQuestion(asked)]


def round_trip_gates(config: SynthesizeConfig) -> list[Gate]:
    """What a question must pass once retrieval has looked for it; may be nothing."""
    top_k = config.gates.round_trip_top_k
    return [RoundTrip(top_k)] if top_k else []


def answer_gates(
    config: SynthesizeConfig,
    teacher: MeteredGenerator,
    prompts: PromptLibrary,
    titles: Mapping[str, str],
    *,
    said: SaidBefore | None = None,
) -> list[Gate]:
    """What an answered question must pass.

    Args:
        config: which gates, and their bounds.
        teacher: is asked again by some of them.
        prompts: has `agree`, `closed-book` and `judge`.
        titles: document id to title.
        said: the reasoning of rows that are taken over; new reasoning is added.

    Raises:
        ConfigError: the user's list of toxic words cannot be read.
    """
    gates = config.gates
    asking = Asking(teacher, prompts, titles, config.seed)
    chosen: list[Gate] = [
        AnswerForm(gates),
        *_text_gates(config, "answer"),
        VerifiedQuotes(gates),
        ReasoningForm(gates),
        NewReasoning(said if said is not None else SaidBefore()),
    ]
    if gates.min_agreement > 0:
        chosen.append(Agreement(asking, gates.min_agreement))
    if gates.closed_book == "drop":
        chosen.append(NeedsDocument(asking))
    if gates.consistency_samples > 0:
        chosen.append(Consistency(asking, gates.consistency_samples, gates.min_consistency))
    if gates.judge is not None:
        chosen.append(Judge(asking, gates.judge))
    return chosen


def steps_of(gates: Iterable[Gate]) -> tuple[str, ...]:
    """The funnel's steps that gates stand for, in order, each once."""
    return tuple(dict.fromkeys(gate.step for gate in gates))


def run_gates(
    gates: Sequence[Gate], candidates: Sequence[Candidate], funnel: Funnel
) -> list[Candidate]:
    """The candidates that pass all gates, in order; the funnel counts and keeps the others.

    Several gates in a row may stand for one step, which is passed with the last of them.
    """
    left = list(candidates)
    for step, of_step in groupby(gates, key=lambda gate: gate.step):
        for gate in of_step:
            left = _run(gate, left, funnel)
        funnel.keep(step, len(left))
    return left


def _run(gate: Gate, candidates: Sequence[Candidate], funnel: Funnel) -> list[Candidate]:
    kept = []
    for candidate, rejection in zip(candidates, gate.check(candidates), strict=True):
        if rejection is None:
            kept.append(candidate)
        else:
            funnel.drop(_reject(candidate, rejection))
    if isinstance(gate, ReportingGate):
        funnel.report(gate.step, gate.report())
    return kept


def _reject(candidate: Candidate, rejection: Rejection) -> Reject:
    if rejection.step == NoPersonalData.QUESTION_STEP:
        # Rejects are looked at and kept: what must not be in a row must not be there either.
        candidate = replace(candidate, question=redact_question(candidate.question))
    return Reject.of(candidate, rejection)


def _text_gates(config: SynthesizeConfig, part: Part) -> list[Gate]:
    gates = config.gates
    chosen: list[Gate] = []
    if gates.languages:
        chosen.append(WantedLanguage(part, gates.languages))
    if gates.personal_data:
        chosen.append(NoPersonalData(part))
    if gates.toxicity:
        chosen.append(NoToxicWords(part, toxic_words(config)))
    return chosen


def toxic_words(config: SynthesizeConfig) -> ToxicWords:
    """The words that the gate `toxicity` refuses; their hash is part of what a dataset rests on.

    Raises:
        ConfigError: the user's list cannot be read.
    """
    folder = Path(config.prompts_path).expanduser() if config.prompts_path else None
    return ToxicWords.load(folder)
