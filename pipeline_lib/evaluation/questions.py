"""The questions of an evaluation: which, with which passages, and what became of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from pipeline_lib.artifacts.partial import PartialWork
from pipeline_lib.config import EvaluateConfig
from pipeline_lib.errors import InputError
from pipeline_lib.evaluation.arms import Arm, ArmOutput, ArmTask
from pipeline_lib.evaluation.records import (
    ArmAnswer,
    QuestionRecord,
    RecordedPassage,
    RecordedQuote,
)
from pipeline_lib.evaluation.scoring import answer_metrics, retrieval_metrics
from pipeline_lib.generation.base import Prompt
from pipeline_lib.progress import Progress, phase
from pipeline_lib.raft.quotes import verify_quote
from pipeline_lib.raft.rendering import parse_answer, render_prompt, render_target
from pipeline_lib.raft.rows import RaftRow, Split, iter_rows, split_file, why_no_question
from pipeline_lib.retrieval.search import Hit, PassageSearcher

_RETRIEVAL_KEY = "retrieval.json"
_HITS = TypeAdapter(dict[str, list[Hit]])


@dataclass(frozen=True)
class Question:
    """One dataset row with what was retrieved for it."""

    row: RaftRow
    hits: tuple[Hit, ...]
    """Down to the largest cutoff or the context size, whichever is deeper."""
    context_size: int

    @property
    def context(self) -> tuple[Hit, ...]:
        """The passages that every arm is given."""
        return self.hits[: self.context_size]

    @property
    def is_oracle_in_context(self) -> bool:
        """Whether the whole answer can be quoted from the given passages."""
        return all(
            any(hit.covers(oracle) for hit in self.context) for oracle in self.row.oracle_chunk_ids
        )

    @property
    def task(self) -> ArmTask:
        """What every arm is asked."""
        return ArmTask(
            row_id=self.row.row_id,
            prompt=Prompt.chat(render_prompt(self.row.question, self.context)),
            reference_prompt=Prompt.chat(render_prompt(self.row.question, self.row.context)),
            reference_target=render_target(self.row),
        )


def select_rows(
    dataset: Path, split: Split, max_questions: int
) -> tuple[list[RaftRow], Counter[str]]:
    """The split's first questions by row id, and how many rows were left out for which reason.

    Only questions that the corpus answers are asked: their answers have a reference.

    Raises:
        InputError: the split has no such question.
    """
    rows, left_out = [], Counter[str]()
    for row in iter_rows(dataset / split_file(split)):
        reason = why_no_question(row)
        if reason is None:
            rows.append(row)
        else:
            left_out[reason] += 1
    if not rows:
        raise InputError(
            f"The dataset's {split} split has no rows to evaluate on",
            hint="Give the other split, or synthesize with a larger share of documents for it.",
        )
    rows.sort(key=lambda row: row.row_id)
    if len(rows) > max_questions:
        left_out["beyond_max_questions"] = len(rows) - max_questions
    return rows[:max_questions], left_out


def retrieve(
    rows: Sequence[RaftRow],
    searcher: PassageSearcher,
    config: EvaluateConfig,
    partial: PartialWork,
    progress: Progress,
) -> list[Question]:
    """Search once for every question; the result is kept as partial work."""
    kept = partial.get(_RETRIEVAL_KEY)
    if kept is None:
        limit = max(*config.cutoffs, config.context_size)
        with phase(progress, "Retrieving passages", len(rows), "questions") as ticker:
            found = searcher.search(
                [row.question for row in rows], limit=limit, config=config.retrieval
            )
            ticker.advance(len(rows))
        hits = {row.row_id: list(ranked) for row, ranked in zip(rows, found, strict=True)}
        partial.put(_RETRIEVAL_KEY, _HITS.dump_json(hits))
    else:
        hits = _HITS.validate_json(kept)
    return [Question(row, tuple(hits[row.row_id]), config.context_size) for row in rows]


def make_records(
    questions: Sequence[Question],
    outputs: Mapping[Arm, Mapping[str, ArmOutput]],
    cutoffs: Sequence[int],
) -> list[QuestionRecord]:
    """Read every answer, verify its quotes and score it."""
    bare = [
        _record(question, [_answer(question, arm, outputs[arm]) for arm in outputs])
        for question in questions
    ]
    retrieval = retrieval_metrics(
        [record.retrieved_chunk_ids for record in bare],
        [question.row.oracle_chunk_ids for question in questions],
        cutoffs,
    )
    metrics = {
        arm.name: answer_metrics(bare, [record.answer(arm.name) for record in bare])
        for arm in outputs
    }
    return [
        record.model_copy(
            update={
                "retrieval": retrieval[row],
                "answers": tuple(
                    answer.model_copy(update={"metrics": metrics[answer.arm][row]})
                    for answer in record.answers
                ),
            }
        )
        for row, record in enumerate(bare)
    ]


def _record(question: Question, answers: Sequence[ArmAnswer]) -> QuestionRecord:
    row = question.row
    return QuestionRecord(
        row_id=row.row_id,
        question=row.question,
        reference_answer=row.final_answer,
        reference_target=render_target(row),
        oracle_chunk_id=row.oracle_chunk_id,
        is_oracle_in_context=question.is_oracle_in_context,
        retrieved_chunk_ids=_retrieved(question),
        retrieval={},
        passages=tuple(
            RecordedPassage(
                chunk_id=hit.chunk_id,
                document_id=hit.document_id,
                title=hit.title,
                source_uri=hit.source_uri,
                text=hit.text,
                rank=hit.rank,
                score=hit.score,
                is_oracle=any(map(hit.covers, row.oracle_chunk_ids)),
            )
            for hit in question.context
        ),
        answers=tuple(answers),
    )


def _retrieved(question: Question) -> tuple[str, ...]:
    """What was found, best first; a passage that was expanded counts as the oracles in it."""
    ids: list[str] = []
    for hit in question.hits:
        covered = [oracle for oracle in question.row.oracle_chunk_ids if hit.covers(oracle)]
        ids += covered or [hit.chunk_id]
    return tuple(ids)


def _answer(question: Question, arm: Arm, outputs: Mapping[str, ArmOutput]) -> ArmAnswer:
    output = outputs[question.row.row_id]
    completion = output.completion
    parsed = parse_answer(completion.text, question.context)
    return ArmAnswer(
        arm=arm.name,
        text=completion.text,
        final_answer=completion.text if parsed.final_answer is None else parsed.final_answer,
        has_answer_tag=parsed.final_answer is not None,
        is_refusal=parsed.is_refusal,
        finish_reason=completion.finish_reason,
        num_prompt_tokens=completion.num_prompt_tokens,
        num_completion_tokens=completion.num_completion_tokens,
        quotes=tuple(_quote(quote.text, quote.passage_number, question) for quote in parsed.quotes),
        sum_nll=output.score.sum_nll,
        num_target_tokens=output.score.num_tokens,
        metrics={},
    )


def _quote(text: str, passage_number: int | None, question: Question) -> RecordedQuote:
    check = verify_quote(text, passage_number, question.context)
    return RecordedQuote(
        text=text,
        passage_number=passage_number,
        status=check.status,
        chunk_id=check.chunk_id,
        start=check.start,
        end=check.end,
    )
