"""What a training has to compute: from the lengths of its rows to micro batches and steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from pipeline_lib.config import FinetuneConfig
from pipeline_lib.training.batches import MicroBatch, PlannedRows, plan_epoch, steps_per_epoch
from pipeline_lib.training.defaults import num_epochs_of
from pipeline_lib.training.meter import BatchWork, causal_pairs
from pipeline_lib.training.prefixes import (
    NO_PARENT,
    common_prefix_length,
    is_worth_sharing,
    shared_prefixes,
)


@dataclass(frozen=True, kw_only=True)
class TrainingRows:
    """The rows that will be trained on, as far as their cost goes."""

    lengths: Sequence[int]
    """In tokens, targets included."""
    num_loss_tokens: Sequence[int]
    """Those of each that are learned: the head is computed for them."""
    groups: Sequence[str] = ()
    """Of each row the name of its group, '' for none; empty where there are no groups."""
    prefixes: Mapping[str, int] = field(default_factory=dict)
    """Tokens that all rows of a group begin with."""
    trunk: int = 0
    """Tokens that all rows begin with: one instruction, where they are of one task."""
    answers: Sequence[tuple[int, int]] = ()
    """Of each row, if it is a preference pair, the tokens of each answer with the prompt before it;
    padded, they are two rows."""

    @classmethod
    def of_length(cls, num_rows: int, num_tokens: int, num_loss_tokens: int) -> Self:
        """Rows that are all alike, for data that is not there yet."""
        return cls(lengths=[num_tokens] * num_rows, num_loss_tokens=[num_loss_tokens] * num_rows)

    @classmethod
    def of_file(cls, path: Path, config: FinetuneConfig) -> Self:
        """The rows of a file of examples that the objective of `config` has written.

        A preference pair is one row: the prompt once, and both answers. A question of reinforcement
        learning is one with an answer as long as it may get.
        """
        if config.stages[0] == "grpo":
            return cls._of_questions(path, config)
        from pipeline_lib.training.examples import ExampleFile

        examples = ExampleFile(path)
        prompts = examples.num_prompt_tokens
        learned = [n - prompt for n, prompt in zip(examples.lengths, prompts, strict=True)]
        trunk = common_prefix_length(map(examples.__getitem__, range(len(examples))))
        if config.stages[0] == "dpo":
            both = [a + b for a, b in zip(learned[::2], learned[1::2], strict=True)]
            return cls(
                trunk=trunk,
                lengths=[sum(pair) for pair in zip(prompts[::2], both, strict=True)],
                num_loss_tokens=both,
                answers=list(zip(examples.lengths[::2], examples.lengths[1::2], strict=True)),
            )
        return cls(
            lengths=examples.lengths,
            num_loss_tokens=learned,
            groups=examples.prompt_groups,
            prefixes=shared_prefixes(examples),
            trunk=trunk,
        )

    @classmethod
    def _of_questions(cls, path: Path, config: FinetuneConfig) -> Self:
        import pyarrow as pa

        longest = config.reinforcement.max_new_tokens
        prompts = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()["num_prompt_tokens"]
        lengths = [prompt + longest for prompt in prompts.to_pylist()]
        return cls(lengths=lengths, num_loss_tokens=[longest] * len(lengths))

    def up_to(self, max_seq_len: int) -> TrainingRows:
        """Only rows of at most so many tokens."""
        kept = [index for index, length in enumerate(self.lengths) if length <= max_seq_len]
        return replace(
            self,
            lengths=[self.lengths[index] for index in kept],
            num_loss_tokens=[self.num_loss_tokens[index] for index in kept],
            groups=[self.groups[index] for index in kept] if self.groups else (),
            answers=[self.answers[index] for index in kept] if self.answers else (),
        )


@dataclass(frozen=True, kw_only=True)
class MicroBatchShape:
    """What one forward pass is made of."""

    segments: tuple[int, ...]
    """Lengths of the segments (see `attention.Segments`), end to end; padded: of the rows."""
    parents: tuple[int, ...]
    """Index of the segment that each continues; -1 where it starts a row."""
    num_rows: int
    num_loss_tokens: int
    is_padded: bool = False

    @property
    def num_tokens(self) -> int:
        """Tokens that the layers compute, padding included."""
        if self.is_padded:
            return len(self.segments) * max(self.segments)
        return sum(self.segments)

    @property
    def work(self) -> BatchWork:
        """What it costs."""
        if self.is_padded:
            pairs = len(self.segments) * causal_pairs(max(self.segments))
        else:
            pairs, seen = 0.0, list[int]()
            for length, parent in zip(self.segments, self.parents, strict=True):
                seen.append(seen[parent] + self.segments[parent] if parent >= 0 else 0)
                pairs += causal_pairs(length) + length * seen[-1]
        return BatchWork(self.num_rows, self.num_tokens, self.num_loss_tokens, pairs)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A stage of training."""

    num_rows: int
    num_steps: int
    """Optimizer steps of the whole stage."""
    num_steps_per_epoch: int
    epoch: BatchWork
    """Of one epoch, on all ranks together."""
    largest: MicroBatchShape
    """Of all micro batches of the first epoch, the one with the most tokens."""


def plan_workload(config: FinetuneConfig, rows: TrainingRows) -> Workload:
    """The micro batches that the training will make of the rows.

    Args:
        config: of one stage.
        rows: of its training split; at least one.
    """
    arithmetic, schedule = config.batch_arithmetic, config.schedule_of(config.stages[0])
    is_padded = config.batch.layout == "padded" or config.stages[0] == "grpo"
    shares = config.batch.share_contexts and not is_padded
    planned = PlannedRows(
        lengths=rows.lengths,
        groups=rows.groups if shares else (),
        prefixes=rows.prefixes if shares else {},
    )
    num_epochs = num_epochs_of(config, len(rows.lengths))
    per_epoch = steps_per_epoch(planned, arithmetic, config.seed, num_epochs, schedule.max_steps)
    if config.stages[0] == "grpo":  # questions too few for a step are left out
        per_epoch = max(1, len(rows.lengths) // arithmetic.global_batch)
    shapes = [
        _shape(micro_batch, planned, rows, shares=shares, is_padded=is_padded)
        for micro_batch in _micro_batches(config, planned, per_epoch)
    ]
    num_answers = config.reinforcement.num_generations if config.stages[0] == "grpo" else 1
    by_epochs = math.ceil(num_epochs * per_epoch)
    return Workload(
        num_rows=len(rows.lengths),
        num_steps=schedule.max_steps if schedule.max_steps > 0 else by_epochs,
        num_steps_per_epoch=per_epoch,
        epoch=sum((shape.work for shape in shapes * num_answers), BatchWork()),
        largest=max(shapes, key=lambda shape: shape.num_tokens),
    )


def _micro_batches(
    config: FinetuneConfig, planned: PlannedRows, num_steps: int
) -> Iterator[MicroBatch]:
    steps = plan_epoch(planned, config.batch_arithmetic, config.seed, 0, num_steps=num_steps)
    for step in steps[:num_steps]:
        for micro_batches in step:
            yield from filter(None, micro_batches)


def _shape(
    micro_batch: MicroBatch,
    planned: PlannedRows,
    rows: TrainingRows,
    *,
    shares: bool,
    is_padded: bool,
) -> MicroBatchShape:
    num_loss_tokens = sum(rows.num_loss_tokens[row] for row in micro_batch)
    if is_padded and rows.answers:
        segments = tuple(length for row in micro_batch for length in rows.answers[row])
        return MicroBatchShape(
            segments=segments,
            parents=(NO_PARENT,) * len(segments),
            num_rows=len(micro_batch),
            num_loss_tokens=num_loss_tokens,
            is_padded=True,
        )
    together: dict[str | int, list[int]] = {}
    for row in micro_batch:
        together.setdefault((planned.groups[row] if planned.groups else "") or row, []).append(row)
    lengths: list[int] = []
    parents: list[int] = []
    root, trunk = NO_PARENT, 0
    num_tokens = sum(planned.lengths[row] for row in micro_batch)
    if shares and is_worth_sharing(rows.trunk, len(micro_batch), num_tokens):
        root, trunk = 0, rows.trunk
        lengths.append(trunk)
        parents.append(NO_PARENT)
    for name, members in together.items():
        shared = planned.prefixes.get(name, 0) if isinstance(name, str) else 0
        parent, start = root, trunk
        if len(members) > 1 and shared > trunk:
            parent, start = len(lengths), shared
            lengths.append(shared - trunk)
            parents.append(root)
        for row in members:
            lengths.append(planned.lengths[row] - start)
            parents.append(parent)
    return MicroBatchShape(
        segments=tuple(lengths),
        parents=tuple(parents),
        num_rows=len(micro_batch),
        num_loss_tokens=num_loss_tokens,
        is_padded=is_padded,
    )
