"""Reinforcement learning: answers that the model writes itself, rewarded for what verifies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline_lib.config import BatchConfig, FinetuneConfig, Objective
from pipeline_lib.errors import ConfigError, InputError
from pipeline_lib.progress import phase
from pipeline_lib.raft.keys import unit_interval
from pipeline_lib.raft.rendering import render_row_prompt
from pipeline_lib.raft.rows import RaftRow, iter_rows, split_file
from pipeline_lib.training.fitting import TOO_LONG, removal_order, without_passages
from pipeline_lib.training.objectives.base import Prepared, PrepareJob
from pipeline_lib.training.rewards.scoring import weights_of
from pipeline_lib.training.rewards.separation import Separation, check_rewards

if TYPE_CHECKING:
    from pipeline_lib.training.loop import LoopMixin
    from pipeline_lib.training.plan import TrainingPlan

NUM_VALIDATED = 16
"""Questions of the validation split that are answered at each validation."""
QUESTION_SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("prompt", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("num_prompt_tokens", pa.int32()),
        ("row", pa.string()),
    ]
)
_TASKS = ("answer", "refusal")
_TARGETS = ("answer", "refuse")
_BATCH_QUESTIONS = 64


class Reinforcement:
    """Group-relative policy optimization (Shao et al. 2024) on the dataset's questions."""

    name: Objective = "grpo"

    def check(self, config: FinetuneConfig, dataset: Path) -> None:
        """See `TrainingObjective`.

        Raises:
            RewardError: a reward cannot tell the rows' own answers from spoilt ones.
        """
        _questions_per_step(config)
        rows = (row for row in iter_rows(dataset / split_file("train")) if _why_not(row) is None)
        _check_rewards(config, rows)

    def prepare(self, job: PrepareJob) -> Prepared:
        """See `TrainingObjective`.

        Raises:
            RewardError: a reward cannot tell the rows' own answers from spoilt ones.
        """
        from transformers import AutoTokenizer

        settings = job.config.reinforcement
        num_per_step = _questions_per_step(job.config)
        tokenizer = AutoTokenizer.from_pretrained(job.base.path)
        prepared = Prepared(files={})
        with phase(job.progress, "Tokenizing", 2, "splits") as progress:
            for split in ("train", "validation"):
                fitter = _QuestionFitter(tokenizer, job.config.batch, settings.max_new_tokens)
                questions: Iterable[Question] = fitter.questions(
                    iter_rows(job.dataset / split_file(split))
                )
                if split == "validation":
                    questions = _drawn(questions)
                path = job.run_folder / f"{split}-questions.arrow"
                num_questions = write_questions(path, questions)
                prepared.files[split] = path
                prepared.counts[f"num_{split}_rows"] = num_questions
                prepared.dropped.update({f"{split}_{why}": n for why, n in fitter.dropped.items()})
                least = num_per_step if split == "train" else 1
                if num_questions < least:
                    raise InputError(
                        f"The dataset has {num_questions} {split} questions that leave room for "
                        f"an answer of {settings.max_new_tokens} tokens, and at least {least} are "
                        "needed",
                        hint="Raise finetune.batch.max_seq_len, lower "
                        "finetune.reinforcement.max_new_tokens or the global batch, or synthesize "
                        "more rows.",
                    )
                progress.advance()
        measured = _check_rewards(job.config, iter_question_rows(prepared.files["train"]))
        prepared.details["reward_separation"] = {
            name: round(separation.share, 4) for name, separation in measured.items()
        }
        return prepared

    def make_trainer(self, plan: TrainingPlan, model: Any, tokenizer: Any) -> LoopMixin:
        """See `TrainingObjective`."""
        from datasets import Dataset

        from pipeline_lib.training.objectives.reinforcement_trainer import ReinforcementTrainer

        train, validation = (
            Dataset.from_file(str(plan.files[split])) for split in ("train", "validation")
        )
        return ReinforcementTrainer(plan, model, tokenizer, train, validation)


@dataclass(frozen=True)
class Question:
    """A row to be answered, as it is shown."""

    row: RaftRow
    prompt: list[dict[str, str]]
    num_prompt_tokens: int


class _QuestionFitter:
    """Keeps the rows that ask for an answer or a refusal and leave room to write one."""

    def __init__(self, tokenizer: Any, batch: BatchConfig, max_new_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._batch = batch
        self._room = batch.max_seq_len - max_new_tokens
        self.dropped: Counter[str] = Counter()
        """Rows left out, by reason."""

    def questions(self, rows: Iterable[RaftRow]) -> Iterator[Question]:
        """The rows that are kept, in their order, perhaps with fewer distractors.

        Raises:
            InputError: a prompt is too long, and the policy is 'error'.
        """
        for row in rows:
            reason = _why_not(row)
            if reason is not None:
                self.dropped[reason] += 1
            else:
                question = self._fitted(row)
                if question is None:
                    self.dropped[TOO_LONG] += 1
                else:
                    yield question

    def _fitted(self, row: RaftRow) -> Question | None:
        question = self._asked(row)
        if question.num_prompt_tokens <= self._room:
            return question
        if self._batch.too_long == "error":
            raise InputError(
                f"The prompt of row {row.row_id} has {question.num_prompt_tokens} tokens, and only "
                f"{self._room} leave room for an answer (max_seq_len - max_new_tokens)",
                hint="Raise finetune.batch.max_seq_len, or set finetune.batch.too_long to 'drop' "
                "or 'fewer_distractors'.",
            )
        if self._batch.too_long == "fewer_distractors":
            order = removal_order(row)
            for num_left_out in range(1, len(order) + 1):
                question = self._asked(without_passages(row, order[:num_left_out]))
                if question.num_prompt_tokens <= self._room:
                    return question
        return None

    def _asked(self, row: RaftRow) -> Question:
        prompt = render_row_prompt(row)
        text = self._tokenizer.apply_chat_template(
            prompt, tokenize=False, add_generation_prompt=True
        )
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return Question(row, prompt, len(ids))


def write_questions(path: Path, questions: Iterable[Question]) -> int:
    """Write questions as an Arrow stream, which every rank maps into memory; returns how many."""
    num_questions = 0
    with pa.OSFile(str(path), "wb") as stream, pa.ipc.new_stream(stream, QUESTION_SCHEMA) as writer:
        for batch in _batches(questions):
            records = [
                {
                    "row_id": question.row.row_id,
                    "prompt": question.prompt,
                    "num_prompt_tokens": question.num_prompt_tokens,
                    "row": question.row.model_dump_json(),
                }
                for question in batch
            ]
            writer.write_table(pa.Table.from_pylist(records, schema=QUESTION_SCHEMA))
            num_questions += len(batch)
    return num_questions


def iter_question_rows(path: Path) -> Iterator[RaftRow]:
    """The rows of a file of questions, one in memory at a time."""
    with pa.memory_map(str(path)) as stream, pa.ipc.open_stream(stream) as reader:
        for batch in reader:
            yield from map(RaftRow.model_validate_json, batch.column("row").to_pylist())


def _batches(questions: Iterable[Question]) -> Iterator[list[Question]]:
    waiting: list[Question] = []
    for question in questions:
        waiting.append(question)
        if len(waiting) == _BATCH_QUESTIONS:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _drawn(questions: Iterable[Question]) -> list[Question]:
    """Those to validate on: the same ones whatever the rows' order."""
    drawn = sorted(questions, key=lambda asked: unit_interval(asked.row.row_id, "validated"))
    return drawn[:NUM_VALIDATED]


def _why_not(row: RaftRow) -> str | None:
    """Why a row is no question to answer; `None` if it is one."""
    if row.task not in _TASKS:
        return "other_task"
    return None if row.target in _TARGETS else "answered_from_memory"


def _check_rewards(config: FinetuneConfig, rows: Iterable[RaftRow]) -> dict[str, Separation]:
    settings = config.reinforcement
    weights = weights_of(settings.reward_weights)
    return check_rewards(rows, weights, settings.min_separation, seed=config.seed)


def _questions_per_step(config: FinetuneConfig) -> int:
    if config.batch.global_batch_size is None:
        raise ConfigError(
            "The stage 'grpo' counts its batches in rows, and finetune.batch.global_batch_tokens "
            "gives them in tokens, of which nobody knows how many an answer will have",
            hint="Set finetune.batch.global_batch_size: questions per step, each answered "
            "reinforcement.num_generations times.",
        )
    return config.batch.global_batch_size
