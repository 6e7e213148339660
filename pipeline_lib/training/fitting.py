"""What to do with rows that are too long, or of tasks that do not count: decided, and counted."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pipeline_lib.config import BatchConfig
from pipeline_lib.errors import ConfigError, InputError
from pipeline_lib.raft.derived.preferences import PreferencePair
from pipeline_lib.raft.rows import TASKS, Origin, Passage, RaftRow
from pipeline_lib.training.examples import Example, encode_row, encode_rows

_Encoded = TypeVar("_Encoded")
_ENCODED_TOGETHER = 128
_BY_RELEVANCE: tuple[Origin, ...] = (
    "random",
    "adversarial",
    "contradicting",
    "same_document",
    "retrieved",
    "oracle",
)
"""Origins of distractors, the least relevant first."""
TOO_LONG = "longer_than_max_seq_len"
NO_WEIGHT = "task_weight_0"


class RowFitter:
    """Tokenizes rows, and keeps those that count and fit.

    Args:
        tokenizer: of the base model.
        batch: how long a row may be, and what becomes of longer ones.
        task_weights: of tasks whose target tokens do not count 1.

    Raises:
        ConfigError: a weight names no task, or is negative.
    """

    def __init__(
        self, tokenizer: Any, batch: BatchConfig, task_weights: Mapping[str, float]
    ) -> None:
        _check_weights(task_weights)
        self._tokenizer = tokenizer
        self._batch = batch
        self._weights = task_weights
        self.dropped: Counter[str] = Counter()
        """Rows left out, by reason."""
        self.num_with_fewer_distractors = 0
        self.shortest_left_out: int | None = None
        """Tokens of the shortest row that did not fit, after what was done to make it fit."""

    def examples(self, rows: Iterable[RaftRow]) -> Iterator[Example]:
        """The rows that count and fit, tokenized, in their order.

        Raises:
            InputError: a row is too long, and the policy is 'error'; or there is no chat template.
            TrainingError: the chat template changes a target.
        """
        for some in _batches(self._counting(rows)):
            weights = [self._weights.get(row.task, 1.0) for row in some]
            for row, example in zip(some, encode_rows(some, self._tokenizer, weights), strict=True):
                fitted = self._fitted(row, example)
                if fitted is None:
                    self.dropped[TOO_LONG] += 1
                else:
                    yield fitted

    def _counting(self, rows: Iterable[RaftRow]) -> Iterator[RaftRow]:
        for row in rows:
            if self._weights.get(row.task, 1.0) > 0:
                yield row
            else:
                self.dropped[NO_WEIGHT] += 1

    def _fitted(self, row: RaftRow, example: Example) -> Example | None:
        limit = self._batch.max_seq_len
        if len(example.input_ids) <= limit:
            return example
        if self._batch.too_long == "error":
            raise InputError(
                f"Row {row.row_id} has {len(example.input_ids)} tokens, more than the {limit} "
                "that a row may have",
                hint="Raise finetune.batch.max_seq_len, or set finetune.batch.too_long to 'drop' "
                "or 'fewer_distractors'.",
            )
        if self._batch.too_long == "drop":
            self._leave_out(example)
            return None
        shorter = self._with_fewer_distractors(row, example.weight)
        if len(shorter.input_ids) > limit:
            self._leave_out(shorter)
            return None
        self.num_with_fewer_distractors += 1
        return shorter

    def _leave_out(self, example: Example) -> None:
        length = len(example.input_ids)
        self.shortest_left_out = min(self.shortest_left_out or length, length)

    def _with_fewer_distractors(self, row: RaftRow, weight: float) -> Example:
        """As few left out as make it fit, or all of them."""

        def encode(left_out: Sequence[Passage]) -> Example:
            return encode_row(without_passages(row, left_out), self._tokenizer, weight)

        def fits(example: Example) -> bool:
            return len(example.input_ids) <= self._batch.max_seq_len

        return with_fewest_left_out(removal_order(row), encode, fits)


def with_fewest_left_out(
    order: Sequence[Passage],
    encode: Callable[[Sequence[Passage]], _Encoded],
    fits: Callable[[_Encoded], bool],
) -> _Encoded:
    """What is encoded without as few passages as make it fit, at least one; or without all.

    Args:
        order: in which passages are left out.
        encode: without some of them.
        fits: whether what was encoded is short enough.
    """
    encoded: dict[int, _Encoded] = {}

    def fits_without(num_left_out: int) -> bool:
        encoded[num_left_out] = encode(order[:num_left_out])
        return fits(encoded[num_left_out])

    num_left_out = min(bisect_left(range(1, len(order)), True, key=fits_without) + 1, len(order))
    if num_left_out not in encoded:  # all of them, which is taken whether it fits or not
        fits_without(num_left_out)
    return encoded[num_left_out]


def removal_order(row: RaftRow | PreferencePair) -> list[Passage]:
    """A row's or pair's distractors in the order in which it can do without them.

    Random and made-up ones go first, then retrieved ones from the worst rank. Oracles stay, and so
    does one passage in any case: without documents it would be another task.
    """
    distractors = [passage for passage in row.context if passage.role == "distractor"]
    order = sorted(distractors, key=lambda p: (_BY_RELEVANCE.index(p.origin), -(p.rank or 0)))
    return order if len(distractors) < len(row.context) else order[:-1]


def without_passages(row: RaftRow, left_out: Iterable[Passage]) -> RaftRow:
    """The row with a smaller context; numbers in its target follow when it is rendered.

    Rows of one context that lose the same passages still have one context.
    """
    gone = {passage.chunk_id for passage in left_out}
    kept = tuple(passage for passage in row.context if passage.chunk_id not in gone)
    places = ",".join(str(i) for i, p in enumerate(row.context) if p.chunk_id in gone)
    group = f"{row.context_group}-{places}" if row.context_group else ""
    return row.model_copy(update={"context": kept, "context_group": group})


def _batches(rows: Iterable[RaftRow]) -> Iterator[list[RaftRow]]:
    waiting: list[RaftRow] = []
    for row in rows:
        waiting.append(row)
        if len(waiting) == _ENCODED_TOGETHER:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _check_weights(weights: Mapping[str, float]) -> None:
    unknown = sorted(set(weights) - set(TASKS))
    if unknown:
        raise ConfigError(
            f"finetune.supervised.task_weights names {', '.join(map(repr, unknown))}, which is no "
            "task of a dataset",
            hint=f"Tasks are {', '.join(TASKS)}.",
        )
    negative = sorted(task for task, weight in weights.items() if not weight >= 0)
    if negative:
        raise ConfigError(
            f"finetune.supervised.task_weights of {', '.join(negative)} is not a number from 0 up",
            hint="0 leaves a task out.",
        )
    if weights and all(weights.get(task, 1.0) == 0 for task in TASKS):
        raise ConfigError(
            "finetune.supervised.task_weights leaves every task out",
            hint="Give at least one task a weight above 0.",
        )
