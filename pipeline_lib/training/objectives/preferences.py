"""Preference training: of two answers to one prompt, the verified one, not the faulty one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.config import BatchConfig, Objective
from pipeline_lib.errors import InputError
from pipeline_lib.raft.derived.preferences import PREFERENCES_FILE, PreferencePair, iter_pairs
from pipeline_lib.raft.keys import unit_interval
from pipeline_lib.raft.rendering import render_prompt
from pipeline_lib.training.examples import Example, ExampleFile, ExampleWriter, encode_exchanges
from pipeline_lib.training.fitting import TOO_LONG
from pipeline_lib.training.objectives.base import Prepared, PrepareJob

if TYPE_CHECKING:
    from pipeline_lib.training.loop import LoopMixin
    from pipeline_lib.training.plan import TrainingPlan

_HELD_OUT = 0.1
"""Share of the training pairs that are validated on where the dataset has no validation pairs."""
_ENCODED_TOGETHER = 64


class Preferences:
    """Direct preference optimization (Rafailov et al. 2023) on the dataset's preference pairs."""

    name: Objective = "dpo"

    def prepare(self, job: PrepareJob) -> Prepared:
        """See `TrainingObjective`."""
        from transformers import AutoTokenizer

        pairs = _read(job.dataset)
        tokenizer = AutoTokenizer.from_pretrained(job.base.path)
        prepared = Prepared(files={})
        faults = Counter[str]()
        for split, some in _split(pairs).items():
            path = job.run_folder / f"{split}-pairs.arrow"
            encoded = PairEncoder(tokenizer, job.config.batch)
            with ExampleWriter(path) as writer:
                for pair, chosen, rejected in encoded.encode(some):
                    writer.write(chosen)
                    writer.write(rejected)
                    faults[pair.fault] += split == "train"
            if not writer.num_examples:
                raise InputError(
                    f"None of the {len(some)} {split} pairs of the dataset fits into "
                    f"{job.config.batch.max_seq_len} tokens",
                    hint="Raise finetune.batch.max_seq_len, or use fewer distractors or smaller "
                    "chunks.",
                )
            prepared.files[split] = path
            prepared.counts[f"num_{split}_rows"] = writer.num_examples // 2
            if encoded.num_too_long:
                prepared.dropped[f"{split}_{TOO_LONG}"] = encoded.num_too_long
        prepared.details["pairs_by_fault"] = dict(sorted(faults.items()))
        return prepared

    def make_trainer(self, plan: TrainingPlan, model: Any, tokenizer: Any) -> LoopMixin:
        """See `TrainingObjective`."""
        from pipeline_lib.training.objectives.preference_trainer import PreferenceTrainer

        train, validation = (PairFile(plan.files[split]) for split in ("train", "validation"))
        return PreferenceTrainer(plan, model, tokenizer, train, validation)


class PairEncoder:
    """Tokenizes pairs, and keeps those whose answers both fit."""

    def __init__(self, tokenizer: Any, batch: BatchConfig) -> None:
        self._tokenizer = tokenizer
        self._batch = batch
        self.num_too_long = 0

    def encode(
        self, pairs: Sequence[PreferencePair]
    ) -> Iterator[tuple[PreferencePair, Example, Example]]:
        """Each pair with its chosen and its rejected answer, tokenized; too long ones left out.

        A pair's fault rests on the documents it shows, by their numbers, so none of them is left
        out to make it shorter: `fewer_distractors` drops it.

        Raises:
            InputError: one is too long, and the policy is 'error'; or there is no chat template.
            TrainingError: the chat template changes an answer.
        """
        for start in range(0, len(pairs), _ENCODED_TOGETHER):
            some = pairs[start : start + _ENCODED_TOGETHER]
            encoded = encode_exchanges(list(_exchanges(some)), self._tokenizer)
            for place, pair in enumerate(some):
                chosen, rejected = (
                    Example(
                        row_id=pair.pair_id,
                        input_ids=(*prompt_ids, *answer_ids),
                        num_prompt_tokens=len(prompt_ids),
                        task=pair.fault,
                        prompt_group=pair.pair_id,
                    )
                    for prompt_ids, answer_ids in encoded[2 * place : 2 * place + 2]
                )
                if self._fits(pair, max(len(chosen.input_ids), len(rejected.input_ids))):
                    yield pair, chosen, rejected
                else:
                    self.num_too_long += 1

    def _fits(self, pair: PreferencePair, length: int) -> bool:
        limit = self._batch.max_seq_len
        if length > limit and self._batch.too_long == "error":
            raise InputError(
                f"Pair {pair.pair_id} has {length} tokens, more than the {limit} that it may have",
                hint="Raise finetune.batch.max_seq_len, or set finetune.batch.too_long to 'drop'.",
            )
        return length <= limit


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


def _exchanges(
    pairs: Iterable[PreferencePair],
) -> Iterator[tuple[str, list[dict[str, str]], str]]:
    for pair in pairs:
        prompt = render_prompt(pair.question, pair.context)
        for answer in (pair.chosen, pair.rejected):
            yield pair.pair_id, prompt, answer
