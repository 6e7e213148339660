"""Writing answers, which takes most of the time of reinforcement learning: how long, how much.

A rank writes all its answers of a step together, a token of each at a time, until the last one has
ended. In each of these passes there is little to compute, but all weights are read, the keys and
values so far are copied and read, and the kernels of every layer are started. Nobody knows
beforehand how many passes there are: what is told is for short answers to the longest allowed. What
is computed in them is counted with the operations of the training (see `duration`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pipeline_lib.config import FinetuneConfig
from pipeline_lib.raft.extrapolation import Quantity
from pipeline_lib.training.estimate.activations import feed_forward_width
from pipeline_lib.training.estimate.hardware import Hardware, bytes_per_second
from pipeline_lib.training.estimate.parameters import num_bytes_per_element
from pipeline_lib.training.estimate.workload import TrainingRows

WRITTEN_SHARE = Quantity(value=0.6, low=0.15, high=1.0)
"""Of the longest answer that is allowed, how much the longest of a step has: a guess, as wide as
it must be. One that does not end by itself has all of it."""
_LAUNCH_SECONDS = Quantity(value=1e-3, low=0.2e-3, high=4e-3)
"""Of a layer in a pass, whatever there is to read: Python starts its kernels one after the other,
with an adapter about twice as many. Measured on one core of a CPU, SmolLM2-135M and 4 answers: 1 ms
without an adapter, 2 to 3 with one."""
_CACHE_PASSES = 3
"""Times that keys and values pass through memory: read and written to make them longer, and read
by attention."""


@dataclass(frozen=True, kw_only=True)
class Answering:
    """The answers that one rank writes in a step."""

    num_answers: int
    longest_prompt: int
    """In tokens; shorter prompts are padded."""
    longest_answer: int
    """That is allowed."""
    cache_bytes_per_token: int
    """Of the keys and values of one token, in all layers."""
    transient_bytes_per_token: int
    """Of what one layer makes of a token of a prompt, and does not keep."""

    @classmethod
    def of(
        cls, config: FinetuneConfig, base_path: Path, rows: TrainingRows, precision: str
    ) -> Self:
        """What the stage 'grpo' of a configuration asks of a rank.

        Args:
            config: of the stage.
            base_path: folder with the base model's `config.json`.
            rows: questions with answers as long as they may get.
            precision: 'bf16', 'fp16' or 'fp32'.
        """
        from transformers import AutoConfig

        arithmetic = config.batch_arithmetic
        num_questions = arithmetic.global_batch // arithmetic.num_ranks
        text = AutoConfig.from_pretrained(base_path).get_text_config()
        width = num_bytes_per_element(precision)
        both = zip(rows.lengths, rows.num_loss_tokens, strict=True)
        return cls(
            num_answers=num_questions * config.reinforcement.num_generations,
            longest_prompt=max(length - answer for length, answer in both),
            longest_answer=max(rows.num_loss_tokens),
            cache_bytes_per_token=2 * width * text.num_hidden_layers * _kv_width(text),
            transient_bytes_per_token=width * (3 * feed_forward_width(text) + 2 * text.hidden_size),
        )

    @property
    def num_bytes(self) -> int:
        """At the peak: while prompts are read, or at the end of the longest answers."""
        prompts = self.num_answers * self.longest_prompt
        reading = prompts * (self.cache_bytes_per_token + self.transient_bytes_per_token)
        written = prompts + self.num_answers * self.longest_answer
        return max(reading, written * self.cache_bytes_per_token)

    def seconds(
        self, weight_bytes: int, num_layers: int, hardware: Hardware, num_processes: int
    ) -> Quantity | None:
        """Of the passes of a step; `None` where the speed of the memory is not known.

        Args:
            weight_bytes: that each pass reads.
            num_layers: of the model.
            hardware: that it runs on.
            num_processes: ranks on the node.
        """
        speed = bytes_per_second(hardware, num_processes)
        if speed is None:
            return None

        def told(share: float, bytes_in_a_second: float, launch: float) -> float:
            num_passes = share * self.longest_answer
            seen = self.num_answers * (self.longest_prompt + num_passes / 2)
            moved = weight_bytes + _CACHE_PASSES * seen * self.cache_bytes_per_token
            return num_passes * (moved / bytes_in_a_second + launch * num_layers)

        return Quantity(
            value=told(WRITTEN_SHARE.value, speed.value, _LAUNCH_SECONDS.value),
            low=told(WRITTEN_SHARE.low, speed.high, _LAUNCH_SECONDS.low),
            high=told(WRITTEN_SHARE.high, speed.low, _LAUNCH_SECONDS.high),
        )


def _kv_width(text: Any) -> int:
    """Of the keys of one token in one layer, and of the values."""
    heads = int(text.num_attention_heads)
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    return int(head_dim) * int(getattr(text, "num_key_value_heads", None) or heads)
