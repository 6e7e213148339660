"""What training costs in floating-point operations, and how much of the hardware that uses.

Counted is what the model needs, not what was done: a forward pass that gradient checkpointing makes
twice counts once (model FLOPs utilisation, MFU: Chowdhery et al. 2022, appendix B).

    dense layers   2 operations per token and parameter forward (Kaplan et al. 2020, section 2.1),
                   2 backward for the gradient of what came in, 2 more where the parameter learns
    attention      4 x width per layer for each pair of a token and one that it sees; twice that
                   backward
    head           as dense layers, but only at the positions whose next token is learned

So a token costs 6 x parameters in full fine-tuning and about 4 x parameters with adapters. Shared
prefixes and skipped head positions lower the count: work that was saved is not performance.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Callable

PEAK_TFLOPS: tuple[tuple[str, float], ...] = (
    ("GB200", 2500),
    ("B200", 2250),
    ("H200 NVL", 835),
    ("H200", 989),
    ("GH200", 989),
    ("H100 PCIe", 756),
    ("H100 NVL", 835),
    ("H100", 989),
    ("H800", 989),
    ("A100", 312),
    ("A800", 312),
    ("L40S", 362),
    ("L40", 181),
    ("L4", 121),
    ("A40", 150),
    ("A30", 165),
    ("A10G", 70),
    ("A10", 125),
)
"""Dense bf16 and fp16 tensor-core peak with fp32 sums, by words of the device's name; the first
that are in it count. From NVIDIA's data sheets, whose figures with sparsity are halved here."""


@dataclass(frozen=True)
class BatchWork:
    """What one or several forward and backward passes were made of."""

    num_rows: int = 0
    num_tokens: int = 0
    """Input tokens that the layers computed: without padding, a shared prefix once."""
    num_scored: int = 0
    """Positions at which the head was computed."""
    num_pairs: float = 0.0
    """Pairs of a token and one that it sees, itself included: n (n + 1) / 2 for a row of n."""

    def __add__(self, other: BatchWork) -> BatchWork:
        return BatchWork(
            self.num_rows + other.num_rows,
            self.num_tokens + other.num_tokens,
            self.num_scored + other.num_scored,
            self.num_pairs + other.num_pairs,
        )


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """The sizes that decide what a token costs."""

    num_body_parameters: float
    """In matrices of the layers, adapters included; of experts, those that a token meets."""
    num_trained_parameters: float
    """Those of them that learn."""
    num_head_parameters: float
    """Of the language-model head."""
    is_head_trained: bool
    num_layers: int
    attention_width: int
    """Heads times their dimension."""

    @classmethod
    def of(cls, model: Any) -> Self:
        """The cost of a loaded causal language model, also one that ZeRO-3 has partitioned."""
        config = model.config.get_text_config()
        embeddings = (model.get_input_embeddings(), model.get_output_embeddings())
        apart = {id(p) for module in embeddings if module is not None for p in module.parameters()}
        body = trained = 0.0
        for parameter in model.parameters():
            if id(parameter) in apart or len(_shape(parameter)) < 2:
                continue
            size = _num_elements(parameter) * _share_met(parameter, config)
            body += size
            trained += size if parameter.requires_grad else 0.0
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        output = model.get_output_embeddings()
        return cls(
            num_body_parameters=body,
            num_trained_parameters=trained,
            num_head_parameters=config.vocab_size * config.hidden_size,
            is_head_trained=any(p.requires_grad for p in output.parameters()) if output else False,
            num_layers=config.num_hidden_layers,
            attention_width=heads * head_dim,
        )

    def forward_flops(self, work: BatchWork) -> float:
        """Operations of a forward pass through the layers alone."""
        attention = 4 * self.num_layers * self.attention_width * work.num_pairs
        return 2 * self.num_body_parameters * work.num_tokens + attention

    def flops(self, work: BatchWork) -> float:
        """Operations of forward and backward passes over `work`."""
        dense = 4 * self.num_body_parameters + 2 * self.num_trained_parameters
        head = (6 if self.is_head_trained else 4) * self.num_head_parameters
        attention = 12 * self.num_layers * self.attention_width
        return dense * work.num_tokens + head * work.num_scored + attention * work.num_pairs


def causal_pairs(num_tokens: int) -> float:
    """Pairs of a token and one that it sees in a row under causal attention."""
    return num_tokens * (num_tokens + 1) / 2


def peak_flops(device_name: str, precision: Literal["bf16", "fp16", "fp32"]) -> float | None:
    """The most operations per second of a device; `None` where that is not known.

    Of fp32 it is not: whether tensor cores take part is a setting. Nor of CPUs.
    """
    if precision == "fp32":
        return None
    known = (tflops for name, tflops in PEAK_TFLOPS if re.search(rf"\b{name}\b", device_name))
    tflops = next(known, None)
    return None if tflops is None else tflops * 1e12


@dataclass
class Meter:
    """Adds up the work of one rank from log entry to log entry, and the time that it took.

    Args:
        clock: monotonic seconds.
    """

    clock: Callable[[], float] = monotonic
    _work: BatchWork = field(default_factory=BatchWork, init=False)
    _since: float = field(init=False)

    def __post_init__(self) -> None:
        self._since = self.clock()

    def add(self, work: BatchWork) -> None:
        """One micro batch more."""
        self._work += work

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What the block takes is not time of training: validating, saving."""
        began = self.clock()
        try:
            yield
        finally:
            self._since += self.clock() - began

    def pop(self) -> tuple[BatchWork, float]:
        """The work since the last call, and its seconds."""
        now = self.clock()
        work, seconds = self._work, now - self._since
        self._work, self._since = BatchWork(), now
        return work, seconds


def _shape(parameter: Any) -> tuple[int, ...]:
    # Under ZeRO-3 a partitioned parameter shows no elements, and in 4 bits a column of bytes.
    quantized = getattr(parameter, "quant_state", None)
    shape = quantized.shape if quantized is not None else getattr(parameter, "ds_shape", None)
    return tuple(parameter.shape if shape is None else shape)


def _num_elements(parameter: Any) -> int:
    size = 1
    for length in _shape(parameter):
        size *= length
    return size


def _share_met(parameter: Any, config: Any) -> float:
    """Of a matrix per expert, stacked in one tensor, the share that a token is sent through."""
    experts = _shape(parameter)[0]
    met = getattr(config, "num_experts_per_tok", None)
    return met / experts if met and len(_shape(parameter)) == 3 else 1.0
