"""How a global batch is cut into ranks and micro batches. Pure arithmetic, checked before any work.

    global batch = ranks x micro batch x gradient accumulation steps

The left side is given, in rows or in tokens, and so is the micro batch; the number of ranks is what
the machines at hand have. What does not come out even is refused, with the nearest that does.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline_lib.config.base import FrozenConfig, operational


class BatchConfig(FrozenConfig):
    """What one optimizer step learns from, and how it is cut into forward passes.

    The global batch is given, in rows or in tokens; how many micro batches each rank makes of it
    follows from the number of ranks, and must come out even.
    """

    global_batch_size: int | None = Field(
        4, ge=1, title="Global batch (rows)", description="Rows per optimizer step."
    )
    global_batch_tokens: int | None = Field(
        None,
        ge=1,
        title="Global batch (tokens)",
        description="Instead of rows: at most so many input tokens per optimizer step.",
    )
    micro_batch_size: int = operational(
        1,
        ge=1,
        title="Micro batch (rows)",
        description="Rows per rank and forward pass, laid end to end without padding.",
    )
    micro_batch_tokens: int | None = operational(
        None,
        ge=32,
        title="Micro batch (tokens)",
        description="With a global batch in tokens: most tokens per rank and forward pass; empty: "
        "max_seq_len.",
    )
    max_seq_len: int = Field(
        2048, ge=32, title="Longest row (tokens)", description="Rows are never cut."
    )
    too_long: Literal["drop", "fewer_distractors", "error"] = Field(
        "drop",
        title="Longer rows",
        description="'drop' and count them; 'fewer_distractors': leave out distractors, the least "
        "relevant first, until they fit; 'error': refuse to train.",
    )
    share_contexts: bool = Field(
        True,
        title="Share contexts",
        description="What rows begin with alike, the instruction and, with "
        "contexts.questions_per_context of the dataset, the passages, is computed once: same "
        "gradients, fewer tokens.",
    )
    layout: Literal["auto", "packed", "padded"] = operational(
        "auto",
        title="Layout",
        description="'packed': rows end to end in one sequence; 'padded': one below the other; "
        "'auto': packed, unless the model's attention cannot be told where rows end.",
    )

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        if (self.global_batch_size is None) == (self.global_batch_tokens is None):
            raise ValueError(
                "give the global batch in rows (global_batch_size) or in tokens "
                "(global_batch_tokens): one of them, and leave the other empty"
            )
        if self.micro_batch_tokens is not None and self.global_batch_tokens is None:
            raise ValueError("micro_batch_tokens needs a global batch in tokens too")
        return self


class BatchArithmetic(BaseModel):
    """A global batch, cut up."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: Literal["rows", "tokens"]
    global_batch: int
    """Of `unit`, per optimizer step; the last step of an epoch may have less."""
    micro_batch: int
    """Of `unit`, per rank and forward pass; of tokens, the most."""
    num_ranks: int
    gradient_accumulation_steps: int
    """Micro batches per rank and optimizer step."""

    def __str__(self) -> str:
        return (
            f"{self.global_batch:,} {self.unit} per step = {_counted(self.num_ranks, 'rank')} x "
            f"{_counted(self.micro_batch, self.unit[:-1])} x "
            f"{_counted(self.gradient_accumulation_steps, 'micro batch', 'micro batches')}"
        )


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def cut_batch(batch: BatchConfig, num_ranks: int) -> BatchArithmetic:
    """The arithmetic of a configuration on `num_ranks` ranks.

    Raises:
        ValueError: it does not come out even; the message names batches that do.
    """
    if batch.global_batch_size is not None:
        unit: Literal["rows", "tokens"] = "rows"
        total = batch.global_batch_size
        micro = batch.micro_batch_size
    else:
        unit = "tokens"
        total = batch.global_batch_tokens or 0
        micro = batch.micro_batch_tokens or batch.max_seq_len
        if micro < batch.max_seq_len:
            raise ValueError(
                f"a row may have {batch.max_seq_len} tokens (max_seq_len), but a micro batch only "
                f"{micro} (micro_batch_tokens): raise the latter, or lower the former"
            )
    per_pass = num_ranks * micro
    if total % per_pass:
        below, above = total // per_pass * per_pass, (total // per_pass + 1) * per_pass
        nearest = " or ".join(f"{size:,}" for size in (below, above) if size)
        field = "global_batch_size" if unit == "rows" else "global_batch_tokens"
        raise ValueError(
            f"{field} ({total:,}) must be a multiple of what the ranks take in one pass, "
            f"{num_ranks} x {micro:,} = {per_pass:,} {unit}: set it to {nearest}, or change the "
            "micro batch or the number of ranks (launch.num_processes x launch.num_nodes)"
        )
    return BatchArithmetic(
        unit=unit,
        global_batch=total,
        micro_batch=micro,
        num_ranks=num_ranks,
        gradient_accumulation_steps=total // per_pass,
    )
