"""Preference training: of two answers to one prompt, the verified one, not the faulty one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.config import FinetuneConfig, Objective
from pipeline_lib.errors import InputError
from pipeline_lib.progress import phase
from pipeline_lib.raft.derived.preferences import PREFERENCES_FILE, PreferencePair, iter_pairs
from pipeline_lib.raft.keys import unit_interval
from pipeline_lib.training.examples import Example, ExampleFile, ExampleWriter
from pipeline_lib.training.fitting import TOO_LONG
from pipeline_lib.training.objectives.base import Prepared, PrepareJob
from pipeline_lib.training.objectives.pair_fitting import PairFitter

if TYPE_CHECKING:
    from pipeline_lib.training.loop import LoopMixin
    from pipeline_lib.training.plan import TrainingPlan

_HELD_OUT = 0.1
"""Share of the training pairs that are validated on where the dataset has no validation pairs."""


class Preferences:
    """Direct preference optimization (Rafailov et al. 2023) on the dataset's preference pairs."""

    name: Objective = "dpo"

    def check(self, config: FinetuneConfig, dataset: Path) -> None:  # noqa: ARG002
        """See `TrainingObjective`."""
        _split(_read(dataset))

    def prepare(self, job: PrepareJob) -> Prepared:
        """See `TrainingObjective`."""
        from transformers import AutoTokenizer

        splits = _split(_read(job.dataset))
        tokenizer = AutoTokenizer.from_pretrained(job.base.path)
        prepared = Prepared(files={})
        faults = Counter[str]()
        with phase(job.progress, "Tokenizing", len(splits), "splits") as progress:
            for split, some in splits.items():
                path = job.run_folder / f"{split}-pairs.arrow"
                fitter = PairFitter(tokenizer, job.config.batch)
                with ExampleWriter(path) as writer:
                    for chosen, rejected in fitter.encoded(some):
                        writer.write(chosen)
                        writer.write(rejected)
                        faults[chosen.task] += split == "train"
                if not writer.num_examples:
                    raise InputError(
                        f"None of the {len(some)} {split} pairs of the dataset fits into "
                        f"{job.config.batch.max_seq_len} tokens",
                        hint="Raise finetune.batch.max_seq_len, or use fewer distractors or "
                        "smaller chunks.",
                    )
                prepared.files[split] = path
                prepared.counts[f"num_{split}_rows"] = writer.num_examples // 2
                if fitter.num_with_fewer_distractors:
                    prepared.counts[f"{split}_rows_with_fewer_distractors"] = (
                        fitter.num_with_fewer_distractors
                    )
                if fitter.num_too_long:
                    prepared.dropped[f"{split}_{TOO_LONG}"] = fitter.num_too_long
                progress.advance()
        prepared.details["pairs_by_fault"] = dict(sorted(faults.items()))
        return prepared

    def make_trainer(self, plan: TrainingPlan, model: Any, tokenizer: Any) -> LoopMixin:
        """See `TrainingObjective`."""
        from pipeline_lib.training.objectives.preference_trainer import PreferenceTrainer

        train, validation = (PairFile(plan.files[split]) for split in ("train", "validation"))
        return PreferenceTrainer(plan, model, tokenizer, train, validation)


class PairFile(Sequence[tuple[Example, Example]]):
    """The chosen and rejected answers of a file, in turn; of each pair both have one prompt."""

    def __init__(self, path: Path) -> None:
        self._examples = ExampleFile(path)
        self.faults = frozenset(self._examples.tasks)
        """Of the rejected answers."""

    def __len__(self) -> int:
        return len(self._examples) // 2

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._examples[2 * index], self._examples[2 * index + 1]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each pair, the shared prompt once."""
        both = zip(self._examples.lengths[::2], self._examples.lengths[1::2], strict=True)
        shared = self._examples.num_prompt_tokens[::2]
        return [
            chosen + rejected - prompt
            for (chosen, rejected), prompt in zip(both, shared, strict=True)
        ]

    @property
    def num_loss_tokens(self) -> int:
        """Answer tokens, of chosen and rejected answers."""
        return sum(self._examples.lengths) - sum(self._examples.num_prompt_tokens)


def _read(dataset: Path) -> list[PreferencePair]:
    path = dataset / PREFERENCES_FILE
    pairs = list(iter_pairs(path)) if path.exists() else []
    if not any(pair.split == "train" for pair in pairs):
        raise InputError(
            "The dataset has no preference pairs for training, which the stage 'dpo' learns from",
            hint="Set synthesize.preferences.share above 0 and synthesize again.",
        )
    return pairs


def _split(pairs: Sequence[PreferencePair]) -> dict[str, list[PreferencePair]]:
    """Pairs to train and to validate on: the dataset's own, or held out by the id of their row.

    Raises:
        InputError: the pairs are of one row only.
    """
    train = [pair for pair in pairs if pair.split == "train"]
    validation = [pair for pair in pairs if pair.split == "validation"]
    if not validation:
        draws = {pair.row_id: unit_interval(pair.row_id, "held out") for pair in train}
        if len(draws) < 2:
            raise InputError(
                "The dataset's preference pairs are of one row only: there is none to validate on",
                hint="Set synthesize.preferences.share higher, or synthesize more rows.",
            )
        ordered = sorted(draws.values())
        limit = min(max(_HELD_OUT, ordered[0]), ordered[-2])  # at least one row for each
        validation = [pair for pair in train if draws[pair.row_id] <= limit]
        train = [pair for pair in train if draws[pair.row_id] > limit]
    return {"train": train, "validation": validation}
