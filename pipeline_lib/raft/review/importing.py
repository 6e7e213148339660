"""From a file that a reviewer hands in to verdicts in force."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.artifacts.store import LATEST
from pipeline_lib.errors import ArtifactNotFoundError, ConfigError, InputError
from pipeline_lib.raft.markup import escape
from pipeline_lib.raft.quotes import fold
from pipeline_lib.raft.rendering import parse_answer
from pipeline_lib.raft.review.files import Entry, read_verdicts_json
from pipeline_lib.raft.review.sample import RowFacts, find_facts
from pipeline_lib.raft.review.table import read_table
from pipeline_lib.raft.review.verdicts import Decision, Verdict, record_verdicts, verdict_log
from pipeline_lib.stage import Workspace


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What became of a file."""

    dataset: ArtifactRef
    """In which the rows were looked up."""
    decisions: Mapping[Decision, int]
    """Rows by what was decided about them."""
    num_undecided: int
    num_new: int
    """Verdicts that were not in force before."""
    unknown: tuple[str, ...]
    """Where the file speaks of a row that the dataset does not have."""
    problems: tuple[str, ...]
    """What was left out for another reason."""


def import_verdicts(ws: Workspace, name: str, path: Path, *, reviewer: str = "") -> ImportReport:
    """Put the verdicts of a file in force; doing so again changes nothing.

    What cannot be used is reported and does not hinder the rest.

    Args:
        ws: live services.
        name: of the pipeline that the verdicts are about.
        path: `verdicts.json` of the page, or the filled-in `review.csv`.
        reviewer: who decided, where the file does not say.

    Raises:
        InputError: the file cannot be read, or holds nothing that was decided.
        ConfigError: it is about another pipeline.
        ArtifactNotFoundError: the pipeline has no dataset.
    """
    read = read_verdicts_json if path.suffix.casefold() == ".json" else read_table
    file = read(path)
    dataset = _dataset(ws, name, file.dataset, path)
    rows = _Rows(ws, dataset, file.entries)
    now = datetime.now(UTC)
    verdicts: dict[str, Verdict] = {}
    unknown: list[str] = []
    problems = list(file.problems)
    num_undecided = 0
    for entry in file.entries:
        if entry.decision is None and not (entry.edited_question or entry.edited_answer):
            num_undecided += 1
            continue
        facts = rows.find(entry)
        if facts is None:
            unknown.append(f"{entry.place}: {entry.question or entry.row_id}")
            continue
        try:
            verdict = _verdict(entry, facts, rows.verdicts.get(facts.row_id), reviewer, now)
        except InputError as error:
            problems.append(f"{entry.place}: {error.message}")
            continue
        verdicts[verdict.row_id] = verdict
    return ImportReport(
        dataset=dataset,
        decisions=Counter(verdict.decision for verdict in verdicts.values()),
        num_undecided=num_undecided,
        num_new=record_verdicts(ws, name, verdicts.values()),
        unknown=tuple(unknown),
        problems=tuple(problems),
    )


def _dataset(ws: Workspace, name: str, text: str, path: Path) -> ArtifactRef:
    """The dataset that was reviewed; the latest where the file's is gone or not named."""
    if text:
        try:
            ref = ArtifactRef.parse(text)
        except ConfigError as error:
            raise InputError(f"{path} names {text[:80]!r} as its dataset") from error
        if ref.kind != "dataset" or ref.name != name:
            raise ConfigError(
                f"{path} is a review of {ref}, not of dataset/{name}",
                hint=f"Import it with: --name {ref.name}",
            )
        if ws.artifacts.find(ref) is not None:
            return ref
    try:
        return ws.artifacts.resolve(f"dataset/{name}@{LATEST}")
    except ArtifactNotFoundError as error:
        raise ArtifactNotFoundError(
            error.message, hint="Verdicts are about rows of a dataset: name its pipeline."
        ) from error


class _Rows:
    """The rows that a file speaks of: by id, else by question where only one row asks it."""

    def __init__(self, ws: Workspace, dataset: ArtifactRef, entries: tuple[Entry, ...]) -> None:
        log = verdict_log(ws, dataset.name)
        self.verdicts = {verdict.row_id: verdict for verdict in log}
        facts = find_facts(
            ws.artifacts.directory(dataset),
            {entry.row_id for entry in entries},
            {entry.question for entry in entries if entry.question},
        )
        # Rows that were rejected are in no dataset any more, but can be decided anew.
        self._by_id = {
            verdict.row_id: RowFacts(
                verdict.row_id, verdict.question, verdict.document_id, "", is_refusal=False
            )
            for verdict in log
        }
        self._by_id |= {each.row_id: each for each in facts}
        asked = Counter(each.question for each in facts)
        self._by_question = {e.question: e for e in facts if asked[e.question] == 1}

    def find(self, entry: Entry) -> RowFacts | None:
        return self._by_id.get(entry.row_id) or self._by_question.get(entry.question)


def _verdict(
    entry: Entry, facts: RowFacts, before: Verdict | None, reviewer: str, now: datetime
) -> Verdict:
    """The verdict that an entry means.

    What it does not edit stays as it was shown; where the dataset shows an earlier edit, that edit
    is what stays.
    """
    original, question_edit, answer_edit = facts.question, "", ""
    if before is not None and before.decision == "edit":
        if facts.question == before.edited_question:
            original, question_edit = before.question, before.edited_question
        if facts.answer == before.edited_answer:
            answer_edit = before.edited_answer
    edited_question = fold(entry.edited_question)
    if edited_question and edited_question != fold(facts.question):
        question_edit = "" if edited_question == fold(original) else edited_question
    edited_answer = entry.edited_answer.strip()
    if edited_answer and edited_answer != facts.answer.strip():
        answer_edit = edited_answer
        _check_answer(answer_edit, facts)
    decision = entry.decision or "edit"
    if decision in ("accept", "edit"):
        decision = "edit" if question_edit or answer_edit else "accept"
    try:
        return Verdict(
            row_id=facts.row_id,
            question=original,
            document_id=facts.document_id,
            decision=decision,
            edited_question=question_edit if decision == "edit" else "",
            edited_answer=answer_edit if decision == "edit" else "",
            comment=entry.comment.strip(),
            reviewer=entry.reviewer.strip() or reviewer,
            decided_at=entry.decided_at or now,
        )
    except ValidationError as error:
        [problem, *_] = error.errors(include_url=False)
        raise InputError(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error


def _check_answer(answer: str, facts: RowFacts) -> None:
    """Refuse an edit that would turn an answer into a refusal, or a refusal into an answer."""
    if facts.is_refusal:
        raise InputError(
            "this row teaches to refuse, because its context does not hold the answer; its answer "
            "cannot be edited"
        )
    if parse_answer(f"<answer>{escape(answer)}</answer>", ()).is_refusal:
        raise InputError("an answer cannot be edited into a refusal: reject the row instead")
