"""From rows to token ids in which only the target is to be learned, and the files of them.

A row is rendered by `raft.rendering`, put through the tokenizer's own chat template, and encoded
in two pieces, prompt and target, so that the border between them is exact. The target ends with
the template's end-of-turn token, which is learned too. The tokenizers of some models (SmolLM2) use
one id for padding and end-of-turn, so nothing here is ever masked by token id.

Files of examples are Arrow's own, uncompressed: every rank maps them into memory, and all ranks of
a machine share the pages. A training set may be larger than the memory of one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, overload

import pyarrow as pa

from pipeline_lib.corpus.writing import to_table
from pipeline_lib.errors import InputError, TrainingError
from pipeline_lib.raft.rendering import SYSTEM_PROMPTS, render_row_prompt, render_target
from pipeline_lib.raft.rows import TASKS, RaftRow

EXAMPLE_SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("num_prompt_tokens", pa.int32()),
        ("task", pa.string()),
        ("weight", pa.float32()),
        ("prompt_group", pa.string()),
    ]
)
_BATCH_EXAMPLES = 256


@dataclass(frozen=True)
class Example:
    """One tokenized row: `input_ids[num_prompt_tokens:]` is what is learned."""

    row_id: str
    input_ids: Sequence[int]
    num_prompt_tokens: int
    """At least 1: the first token has nothing that it could be predicted from."""
    task: str = "answer"
    """Losses are told apart by it."""
    weight: float = 1.0
    """How much each of its target tokens counts."""
    prompt_group: str = ""
    """Examples with the same name (not empty) have prompts that begin alike, for long."""

    @property
    def num_loss_tokens(self) -> int:
        """Tokens the loss is taken on."""
        return len(self.input_ids) - self.num_prompt_tokens


def encode_row(row: RaftRow, tokenizer: Any, weight: float = 1.0) -> Example:
    """Tokenize one row; see `encode_rows`."""
    return encode_rows([row], tokenizer, [weight])[0]


def encode_rows(
    rows: Sequence[RaftRow], tokenizer: Any, weights: Sequence[float] | None = None
) -> list[Example]:
    """Tokenize rows together, which takes less time than one by one.

    Args:
        rows: to tokenize, as they are, however long.
        tokenizer: with a chat template.
        weights: of the rows; 1 by default.

    Raises:
        InputError: the tokenizer has no chat template.
        TrainingError: what would be learned does not decode to the row's target, because the chat
            template rewrites it; training on it would silently teach something else.
    """
    encoded = encode_exchanges(
        [(row.row_id, render_row_prompt(row), render_target(row)) for row in rows], tokenizer
    )
    return [
        Example(
            row_id=row.row_id,
            input_ids=(*prompt_ids, *target_ids),
            num_prompt_tokens=len(prompt_ids),
            task=row.task,
            weight=weight,
            prompt_group=_prompt_group(row),
        )
        for row, weight, (prompt_ids, target_ids) in zip(
            rows, weights or [1.0] * len(rows), encoded, strict=True
        )
    ]


def _prompt_group(row: RaftRow) -> str:
    """Rows with one context begin alike if the instruction in front of it is the same too."""
    if not row.context_group:
        return ""
    instruction = SYSTEM_PROMPTS[row.task]
    alike = next(task for task in TASKS if SYSTEM_PROMPTS[task] == instruction)
    return f"{row.context_group}/{alike}"


def encode_exchanges(
    exchanges: Sequence[tuple[str, list[dict[str, str]], str]], tokenizer: Any
) -> list[tuple[list[int], list[int]]]:
    """Token ids of prompts and of the answers to them.

    Args:
        exchanges: of each a name for messages, the prompt's chat messages, and the answer.
        tokenizer: with a chat template.

    Returns:
        Of each the ids of the prompt, up to where generation would begin, and those of the answer,
        up to and with the end of the turn.

    Raises:
        InputError: the tokenizer has no chat template.
        TrainingError: the chat template changes an answer.
    """
    if not tokenizer.chat_template:
        raise InputError(
            "The base model's tokenizer has no chat template, so prompts cannot be written",
            hint="Use an instruction-tuned model, or add chat_template.jinja to its folder.",
        )
    prompts, endings = [], []
    for name, messages, answer in exchanges:
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(
            [*messages, {"role": "assistant", "content": answer}], tokenize=False
        )
        if not whole.startswith(prompt):
            raise TrainingError(
                f"Row {name}: the chat template does not continue its own generation prompt",
                hint="The template must render the conversation so far the same way with and "
                "without the answer.",
            )
        prompts.append(prompt)
        endings.append(whole[len(prompt) :])
    prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    target_ids = [
        _through_end_of_turn(ids, tokenizer.eos_token_id)
        for ids in tokenizer(endings, add_special_tokens=False)["input_ids"]
    ]
    learned = tokenizer.batch_decode([ids[:-1] for ids in target_ids], skip_special_tokens=False)
    for (name, _, answer), text in zip(exchanges, learned, strict=True):
        if text.strip() != answer.strip():
            raise TrainingError(
                f"Row {name}: the tokens to be learned decode to {text[:80]!r} instead of "
                f"{answer[:80]!r}",
                hint="The chat template or the tokenizer changes the answer's text.",
            )
    return list(zip(prompt_ids, target_ids, strict=True))


def _through_end_of_turn(target_ids: list[int], eos_token_id: int) -> list[int]:
    """Cut what the template adds behind the end of the turn (SmolLM2: a newline)."""
    if eos_token_id not in target_ids:
        return [*target_ids, eos_token_id]
    last = len(target_ids) - 1 - target_ids[::-1].index(eos_token_id)
    return target_ids[: last + 1]


class ExampleWriter:
    """Writes a file of examples as they come; a context manager.

    It counts what goes through: `num_examples`, `num_tokens`, `num_loss_tokens`.
    """

    def __init__(self, path: Path) -> None:
        self.num_examples = self.num_tokens = self.num_loss_tokens = 0
        self._waiting: list[Example] = []
        self._stream = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._stream, EXAMPLE_SCHEMA)

    def write(self, example: Example) -> None:
        """Add an example."""
        self.num_examples += 1
        self.num_tokens += len(example.input_ids)
        self.num_loss_tokens += example.num_loss_tokens
        self._waiting.append(example)
        if len(self._waiting) == _BATCH_EXAMPLES:
            self._flush()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._writer.write_table(to_table(waiting, EXAMPLE_SCHEMA))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()
        self._stream.close()


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Write a file of examples; see `ExampleWriter`."""
    with ExampleWriter(path) as writer:
        for example in examples:
            writer.write(example)


class ExampleFile(Sequence[Example]):
    """The examples of a file, mapped into memory: only what is looked at is read."""

    def __init__(self, path: Path) -> None:
        self._table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self._input_ids = self._table.column("input_ids")
        self.lengths: list[int] = [
            length for chunk in self._input_ids.chunks for length in chunk.value_lengths().tolist()
        ]
        """In tokens, prompts and targets together."""
        self.num_prompt_tokens: list[int] = self._column("num_prompt_tokens")
        self.tasks: list[str] = self._column("task")
        self.weights: list[float] = self._column("weight")
        self.prompt_groups: list[str] = self._column("prompt_group")

    def _column(self, name: str) -> list[Any]:
        values: list[Any] = self._table.column(name).to_pylist()
        return values

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return Example(
            row_id=self._table.column("row_id")[index].as_py(),
            input_ids=self._input_ids[index].values.to_numpy(),
            num_prompt_tokens=self.num_prompt_tokens[index],
            task=self.tasks[index],
            weight=self.weights[index],
            prompt_group=self.prompt_groups[index],
        )
