"""What a rank holds of a training's state, under DeepSpeed's ZeRO 1 to 3 and without it.

ZeRO deals out fp32 weights and optimizer state over the ranks, each stage in its own way. Here all
of them look the same: a rank holds pieces of parameters, a piece being a run of values of one
parameter, and for each value its weight and what the optimizer remembers of it. That is what a
checkpoint is made of, and why it can be read by any number of ranks under any stage.

Only parameters that are trained are looked at; the others come with the base model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

WEIGHT = "weight"
STEP = "step"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Values `start` to `start + numel` of a parameter, laid out flat."""

    name: str
    shape: tuple[int, ...]
    """Of the whole parameter."""
    start: int
    numel: int
    holder: torch.Tensor
    """What the optimizer works on: the parameter, or a partition that has pieces of several."""
    offset: int
    """Where the piece begins in `holder`, laid out flat."""

    def within(self, values: torch.Tensor) -> torch.Tensor:
        """The piece's part of a tensor that is laid out as `holder`; a view."""
        return values.detach().view(-1).narrow(0, self.offset, self.numel)


@dataclass(frozen=True, kw_only=True)
class EngineState:
    """The pieces of one rank."""

    pieces: tuple[Piece, ...]
    optimizer: torch.optim.Optimizer
    """The innermost, whose state is by `Piece.holder`."""
    is_replica: bool
    """Another rank holds the same."""
    publish: Callable[[], None]
    """Makes the model compute with the pieces' weights after these were set; collective."""


@dataclass(frozen=True)
class HostState:
    """A copy of a rank's pieces in host memory."""

    tensors: dict[tuple[str, str], torch.Tensor]
    """By kind (`weight`, `exp_avg`, …) and parameter; one-dimensional."""
    shapes: dict[str, tuple[int, ...]]
    """Of the whole parameters."""
    starts: dict[str, int]
    steps: dict[str, float]
    """Updates made of each parameter; none of one that was never updated."""


class SavedState(Protocol):
    """A whole checkpoint, from which any piece can be read."""

    @property
    def steps(self) -> Mapping[str, float]:
        """Updates made of each parameter."""

    def check(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Refuse parameters of other shapes than the saved ones."""

    def kinds(self, name: str) -> Iterable[str]:
        """What is known of a parameter besides its weight."""

    def read(self, kind: str, name: str, start: int, numel: int) -> torch.Tensor:
        """A run of values, one-dimensional, in host memory."""


def engine_state(model: torch.nn.Module, engine: Any, optimizer: Any) -> EngineState:
    """What this rank holds.

    Args:
        model: whose parameter names are the checkpoint's.
        engine: DeepSpeed's engine, or whatever else wraps the model.
        optimizer: the Trainer's, wrapped or not; not looked at under DeepSpeed.
    """
    trained = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    zero = getattr(engine, "optimizer", None)
    if hasattr(zero, "fp32_partitioned_groups_flat"):
        return _of_zero_3(zero, trained)
    if hasattr(zero, "single_partition_of_fp32_groups"):
        return _of_zero_1_and_2(zero, trained)
    return EngineState(
        pieces=tuple(
            Piece(
                name=name,
                shape=tuple(parameter.shape),
                start=0,
                numel=parameter.numel(),
                holder=parameter,
                offset=0,
            )
            for name, parameter in trained.items()
        ),
        optimizer=getattr(optimizer, "optimizer", optimizer),
        is_replica=torch.distributed.is_initialized() and torch.distributed.get_rank() != 0,
        publish=lambda: _share(trained.values()),
    )


def _share(parameters: Iterable[torch.Tensor]) -> None:
    """Give all ranks the first one's values."""
    if torch.distributed.is_initialized():
        for parameter in parameters:
            torch.distributed.broadcast(parameter.detach(), 0)


def _of_zero_1_and_2(zero: Any, trained: Mapping[str, torch.nn.Parameter]) -> EngineState:
    """A partition is a run of all parameters laid end to end: it may cut one anywhere."""
    pieces = []
    for name, parameter in trained.items():
        mapping: Any = parameter._hp_mapping  # type: ignore[attr-defined]
        if mapping is None:
            continue
        pieces.append(
            Piece(
                name=name,
                shape=tuple(parameter.shape),
                start=mapping.lp_fragment_address.start,
                numel=mapping.lp_fragment_address.numel,
                holder=zero.single_partition_of_fp32_groups[mapping.param_group_index],
                offset=mapping.hp_fragment_address.start,
            )
        )
    return EngineState(
        pieces=tuple(pieces),
        optimizer=zero.optimizer,
        is_replica=False,
        publish=zero.update_lp_params,
    )


def _of_zero_3(zero: Any, trained: Mapping[str, torch.nn.Parameter]) -> EngineState:
    """Every parameter is cut into as many equal pieces as there are ranks; the last is padded."""
    pieces, parameters = [], []
    for name, parameter in trained.items():
        whole: Any = parameter
        group, offset, size = zero.grad_position[zero.get_param_id(parameter)]
        start = size * zero._get_param_partition_rank(parameter)
        numel = min(size, whole.ds_numel - start)
        if numel <= 0:
            continue
        parameters.append(parameter)
        pieces.append(
            Piece(
                name=name,
                shape=tuple(whole.ds_shape),
                start=start,
                numel=numel,
                holder=zero.fp32_partitioned_groups_flat[group],
                offset=offset,
            )
        )

    def publish() -> None:
        # Small parameters are whole on every rank between steps: partitioned, set, gathered again.
        kept_whole = zero.persistent_parameters
        if kept_whole:
            kept_whole[0].partition(kept_whole)
        for parameter, piece in zip(parameters, pieces, strict=True):
            shard: torch.Tensor = parameter.ds_tensor  # type: ignore[attr-defined]
            shard.data.view(-1).narrow(0, 0, piece.numel).copy_(piece.within(piece.holder))
        if kept_whole:
            kept_whole[0].all_gather(kept_whole)

    return EngineState(
        pieces=tuple(pieces), optimizer=zero.optimizer, is_replica=False, publish=publish
    )


def copy_to_host(engine: EngineState) -> HostState:
    """A copy that the next step does not change."""
    copied = HostState({}, {}, {}, {})
    for piece in engine.pieces:
        copied.shapes[piece.name] = piece.shape
        copied.starts[piece.name] = piece.start
        copied.tensors[WEIGHT, piece.name] = _copy(piece.within(piece.holder))
        remembered = engine.optimizer.state.get(piece.holder, {})
        if STEP in remembered:
            copied.steps[piece.name] = float(remembered[STEP])
        for kind, values in remembered.items():
            if torch.is_tensor(values) and values.shape == piece.holder.shape:
                copied.tensors[kind, piece.name] = _copy(piece.within(values))
    return copied


def _copy(values: torch.Tensor) -> torch.Tensor:
    return values.to("cpu", copy=True)


def restore(engine: EngineState, saved: SavedState, *, with_optimizer: bool = True) -> None:
    """Set this rank's pieces from a checkpoint; collective.

    Raises:
        TrainingError: the checkpoint is of another model.
    """
    if not engine.is_replica:  # which may be on a machine without the files
        saved.check({piece.name: piece.shape for piece in engine.pieces})
    for piece in engine.pieces:
        if not engine.is_replica:
            _fill(piece, piece.holder, saved, WEIGHT)
        if with_optimizer and piece.name in saved.steps:
            _restore_optimizer(engine.optimizer, piece, saved)
    engine.publish()


def _restore_optimizer(optimizer: torch.optim.Optimizer, piece: Piece, saved: SavedState) -> None:
    state = optimizer.state[piece.holder]
    # As torch does when it loads an optimizer: a fused one counts on the device.
    counts_on_device = optimizer.defaults.get("fused") or optimizer.defaults.get("capturable")
    state[STEP] = torch.tensor(
        saved.steps[piece.name],
        dtype=torch.float32,
        device=piece.holder.device if counts_on_device else "cpu",
    )
    for kind in saved.kinds(piece.name):
        if kind not in state:
            state[kind] = torch.zeros_like(piece.holder)
        _fill(piece, state[kind], saved, kind)


def _fill(piece: Piece, values: torch.Tensor, saved: SavedState, kind: str) -> None:
    piece.within(values).copy_(saved.read(kind, piece.name, piece.start, piece.numel))
