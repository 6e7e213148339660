"""From RAFT rows to token ids in which only the answer is to be learned.

A row is rendered by `raft.rendering`, put through the tokenizer's own chat template, and encoded
in two pieces, prompt and target, so that the border between them is exact. The target ends with
the template's end-of-turn token, which is learned too. The tokenizers of some models (SmolLM2) use
one id for padding and end-of-turn, so nothing here is ever masked by token id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.errors import InputError, TrainingError
from pipeline_lib.raft.rendering import render_row_prompt, render_target
from pipeline_lib.raft.rows import RaftRow

EXAMPLE_SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("num_prompt_tokens", pa.int32()),
    ]
)


@dataclass(frozen=True)
class Example:
    """One tokenized row: `input_ids[num_prompt_tokens:]` is what is learned."""

    row_id: str
    input_ids: tuple[int, ...]
    num_prompt_tokens: int

    @property
    def num_loss_tokens(self) -> int:
        """Tokens the loss is taken on."""
        return len(self.input_ids) - self.num_prompt_tokens


@dataclass(frozen=True)
class EncodedSplit:
    """The examples of one split and the rows that did not fit."""

    examples: tuple[Example, ...]
    dropped: Counter[str]
    """Reason to count."""


def encode_row(row: RaftRow, tokenizer: Any) -> Example:
    """Tokenize one row.

    Raises:
        InputError: the tokenizer has no chat template.
        TrainingError: what would be learned does not decode to the row's target, because the chat
            template rewrites it; training on it would silently teach something else.
    """
    if not tokenizer.chat_template:
        raise InputError(
            "The base model's tokenizer has no chat template, so prompts cannot be written",
            hint="Use an instruction-tuned model, or add chat_template.jinja to its folder.",
        )
    prompt = render_row_prompt(row)
    target = render_target(row)
    prompt_text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    whole_text = tokenizer.apply_chat_template(
        [*prompt, {"role": "assistant", "content": target}], tokenize=False
    )
    if not whole_text.startswith(prompt_text):
        raise TrainingError(
            f"Row {row.row_id}: the chat template does not continue its own generation prompt",
            hint="The template must render the conversation so far the same way with and without "
            "the answer.",
        )
    prompt_ids = tokenizer(prompt_text, add_special_tokens=False)["input_ids"]
    target_ids = tokenizer(whole_text[len(prompt_text) :], add_special_tokens=False)["input_ids"]
    target_ids = _through_end_of_turn(target_ids, tokenizer.eos_token_id)
    learned = tokenizer.decode(target_ids[:-1], skip_special_tokens=False)
    if learned.strip() != target.strip():
        raise TrainingError(
            f"Row {row.row_id}: the tokens to be learned decode to {learned[:80]!r} instead of "
            f"{target[:80]!r}",
            hint="The chat template or the tokenizer changes the answer's text.",
        )
    return Example(row.row_id, (*prompt_ids, *target_ids), len(prompt_ids))


def _through_end_of_turn(target_ids: list[int], eos_token_id: int) -> list[int]:
    """Cut what the template adds behind the end of the turn (SmolLM2: a newline)."""
    if eos_token_id not in target_ids:
        return [*target_ids, eos_token_id]
    last = len(target_ids) - 1 - target_ids[::-1].index(eos_token_id)
    return target_ids[: last + 1]


def encode_rows(rows: Iterable[RaftRow], tokenizer: Any, max_seq_len: int) -> EncodedSplit:
    """Tokenize rows; those longer than `max_seq_len` tokens are dropped and counted, never cut."""
    examples, dropped = [], Counter[str]()
    for row in rows:
        example = encode_row(row, tokenizer)
        if len(example.input_ids) > max_seq_len:
            dropped["longer_than_max_seq_len"] += 1
        else:
            examples.append(example)
    return EncodedSplit(tuple(examples), dropped)


def write_examples(path: Path, examples: Sequence[Example]) -> None:
    """Write examples as parquet, which every rank reads."""
    records = [
        {
            "row_id": example.row_id,
            "input_ids": list(example.input_ids),
            "num_prompt_tokens": example.num_prompt_tokens,
        }
        for example in examples
    ]
    pq.write_table(pa.Table.from_pylist(records, schema=EXAMPLE_SCHEMA), path)
