"""One micro batch, forward and backward, without numbers: how much memory its tensors take.

PyTorch's fake tensors have shapes, types and storages, but nothing in them. The model's own code
runs on them, with the adapter, the attention, the loss and the checkpointing of the run, and each
storage is counted from when it is made until the last tensor on it is gone. So the peak is that of
the run for every architecture, but for what kernels take inside and what an allocator wastes. It
takes a second or two, whatever the sizes.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline_lib.training.estimate.workload import MicroBatchShape

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class SimulatedPass:
    """Bytes of the tensors of one micro batch, weights and their gradients left out."""

    saved: int
    """At the end of the forward pass: what the backward pass will need."""
    peak: int


class StorageMeter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that operations make while it is on, for as long as they live.

    Args:
        known: tensors that are not counted.
    """

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known = [tensor.untyped_storage() for tensor in known]
        self._seen: dict[int, Any] = {storage._cdata: storage for storage in self._known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return

        def forget(_: object) -> None:
            self.live -= size
            del self._seen[key]

        self._seen[key] = weakref.ref(storage, forget)
        self.live += size
        self.peak = max(self.peak, self.live)


def simulate(
    skeleton: Any,
    shape: MicroBatchShape,
    *,
    autocast_precision: str | None,
    is_checkpointed: bool,
    is_activated: bool = False,
) -> SimulatedPass:
    """Run a micro batch through a model that has no weights.

    Args:
        skeleton: of `parameters.build_skeleton`; its parameters are replaced.
        shape: of the micro batch.
        autocast_precision: 'bf16' or 'fp16' where the run computes by autocast.
        is_checkpointed: with gradient checkpointing.
        is_activated: with the prompt's pass apart, which keeps nothing but keys and values.

    Raises:
        RuntimeError: the model's code looks at numbers, so it cannot run without (other errors of
            the model's own may come, too).
    """
    with FakeTensorMode():
        _fill_with_fakes(skeleton)
        skeleton.train()
        if is_checkpointed:
            _enable_checkpointing(skeleton)
        meter = StorageMeter([*skeleton.parameters(), *skeleton.buffers(), *_gradients(skeleton)])
        if is_activated:
            return _in_two_phases(skeleton, shape, meter)
        inputs = _padded(shape) if shape.is_padded else _packed(skeleton, shape)
        with meter, _autocast(autocast_precision):
            logits = skeleton(**inputs, use_cache=False).logits
            return _learn(logits, shape.num_loss_tokens, meter)


def _fill_with_fakes(skeleton: Any) -> None:
    """Put fakes on the CPU in the place of tensors on the meta device, which autocast skips."""
    made: dict[int, Any] = {}
    for module in skeleton.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:  # tied weights stay tied
                    made[id(tensor)] = tensor, _fake(tensor)
                tensors[name] = made[id(tensor)][1]


def _fake(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
    if not isinstance(tensor, torch.nn.Parameter):
        return empty
    return torch.nn.Parameter(empty, requires_grad=tensor.requires_grad)


def _enable_checkpointing(skeleton: Any) -> None:
    base = _base_of(skeleton)
    if any(not parameter.requires_grad for parameter in skeleton.parameters()):
        base.enable_input_require_grads()
    # Transformers 5.23 has renamed it.
    new = getattr(base, "activation_checkpointing_enable", None)
    (new or base.gradient_checkpointing_enable)({"use_reentrant": False})


def _base_of(skeleton: Any) -> Any:
    return skeleton.get_base_model() if hasattr(skeleton, "peft_config") else skeleton


def _gradients(skeleton: Any) -> Iterator[torch.Tensor]:
    """Those that are there from the micro batch before, so that none is made by this one."""
    for parameter in skeleton.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)
            yield parameter.grad


def _autocast(precision: str | None) -> contextlib.AbstractContextManager[Any]:
    if precision is None:
        return contextlib.nullcontext()
    return torch.autocast("cpu", _DTYPES[precision])


def _packed(skeleton: Any, shape: MicroBatchShape) -> dict[str, Any]:
    from pipeline_lib.training.attention import Segments, no_mask, register_segment_attention

    _base_of(skeleton).set_attn_implementation(register_segment_attention())
    positions = torch.zeros(1, shape.num_tokens, dtype=torch.long)
    return {
        "input_ids": positions,
        "position_ids": positions,
        "attention_mask": no_mask(),
        "segments": Segments(shape.segments, shape.parents),
        "logits_to_keep": torch.zeros(shape.num_loss_tokens, dtype=torch.long),
    }


def _padded(shape: MicroBatchShape) -> dict[str, Any]:
    num_rows, longest = len(shape.segments), max(shape.segments)
    # As many positions of the first row as are learned in all take as much memory.
    kept = torch.zeros(-(-shape.num_loss_tokens // num_rows), dtype=torch.long)
    return {
        "input_ids": torch.zeros(num_rows, longest, dtype=torch.long),
        "logits_to_keep": kept,
    }


def _learn(logits: torch.Tensor, num_loss_tokens: int, meter: StorageMeter) -> SimulatedPass:
    from pipeline_lib.training.losses import token_losses

    flat = logits.view(-1, logits.shape[-1])
    losses = token_losses(flat, torch.zeros(len(flat), dtype=torch.long))
    loss = losses.sum() / num_loss_tokens
    del logits, flat, losses
    saved = meter.live
    loss.backward()  # type: ignore[no-untyped-call]
    return SimulatedPass(saved=saved, peak=meter.peak)


def _in_two_phases(skeleton: Any, shape: MicroBatchShape, meter: StorageMeter) -> SimulatedPass:
    """The prompt into a cache without gradients, the answer against it (see `activated`)."""
    from transformers import DynamicCache

    num_answer = max(1, shape.num_loss_tokens)
    num_prompt = max(1, shape.num_tokens - num_answer)
    with meter:
        cache = DynamicCache(config=_base_of(skeleton).config)
        with torch.no_grad():
            skeleton(
                input_ids=torch.zeros(1, num_prompt, dtype=torch.long),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits = skeleton(
            input_ids=torch.zeros(1, num_answer, dtype=torch.long),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=num_answer,
        ).logits
        return _learn(logits, num_answer, meter)
