"""Supervised fine-tuning: the targets of the dataset's rows, given their prompts."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from pipeline_lib.config import FinetuneConfig, Objective
from pipeline_lib.errors import InputError
from pipeline_lib.progress import phase
from pipeline_lib.raft.rows import Split, iter_rows, split_file
from pipeline_lib.training.objectives.base import Prepared, PrepareJob
from pipeline_lib.training.questions import QUESTIONS, prepare_questions

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline_lib.training.loop import LoopMixin
    from pipeline_lib.training.plan import TrainingPlan

_SPLITS: tuple[Split, ...] = ("train", "validation")


class Supervised:
    """Learns targets only: the loss is their tokens' mean negative log-likelihood.

    All tasks of the dataset are learned: answers, refusals, and what was derived from them.
    """

    name: Objective = "sft"

    def check(self, config: FinetuneConfig, dataset: Path) -> None:
        """See `TrainingObjective`; there are rows in every dataset."""

    def prepare(self, job: PrepareJob) -> Prepared:
        """See `TrainingObjective`."""
        prepared = Prepared(files={})
        with phase(job.progress, "Tokenizing", len(_SPLITS), "splits") as progress:
            for split in _SPLITS:
                prepared.files[split] = _write_split(job, split, prepared)
                progress.advance()
        if job.config.supervised.best_by != "loss":
            prepared.files[QUESTIONS] = prepare_questions(job)
        return prepared

    def make_trainer(self, plan: TrainingPlan, model: Any, tokenizer: Any) -> LoopMixin:
        """See `TrainingObjective`."""
        from pipeline_lib.training.examples import ExampleFile

        train, validation = (ExampleFile(plan.files[split]) for split in _SPLITS)
        if plan.config.method == "activated_lora":
            from pipeline_lib.training.activated_trainer import make_activated_trainer

            return make_activated_trainer(plan, model, tokenizer, train, validation)
        from pipeline_lib.training.objectives.supervised_trainer import SupervisedTrainer

        return SupervisedTrainer(plan, model, train, validation)


def _write_split(job: PrepareJob, split: Split, prepared: Prepared) -> Path:
    from transformers import AutoTokenizer

    from pipeline_lib.training.examples import ExampleWriter
    from pipeline_lib.training.fitting import RowFitter

    batch = job.config.batch
    tokenizer = AutoTokenizer.from_pretrained(job.base.path)
    fitter = RowFitter(tokenizer, batch, job.config.supervised.task_weights)
    path = job.run_folder / f"{split}.arrow"
    num_rows = Counter[str]()
    with ExampleWriter(path) as writer:
        for example in fitter.examples(iter_rows(job.dataset / split_file(split))):
            writer.write(example)
            num_rows[example.task] += 1
    if not num_rows:
        shortest = fitter.shortest_left_out
        raise InputError(
            f"None of the {fitter.dropped.total()} {split} rows fits into {batch.max_seq_len} "
            f"tokens{f'; the shortest has {shortest}' if shortest else ''}",
            hint="Raise finetune.batch.max_seq_len, or make the dataset with fewer distractors or "
            "smaller chunks.",
        )
    prepared.counts[f"num_{split}_rows"] = num_rows.total()
    if len(num_rows) > 1:
        prepared.counts |= {f"num_{split}_rows_{task}": num_rows[task] for task in sorted(num_rows)}
    if fitter.num_with_fewer_distractors:
        prepared.counts[f"{split}_rows_with_fewer_distractors"] = fitter.num_with_fewer_distractors
    prepared.dropped.update({f"{split}_{why}": n for why, n in fitter.dropped.items()})
    return path
