"""When a training does not fit into memory: refuse it, and say what would fit.

Looked for is the least that has to be changed, in the order of what it costs: first what leaves the
trained model as it is (checkpointing, smaller micro batches at the same global batch, sharing and
offloading), then another method, and shorter rows last.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline_lib.config import FinetuneConfig
from pipeline_lib.errors import ConfigError
from pipeline_lib.training.estimate.estimating import estimate_training
from pipeline_lib.training.estimate.hardware import Hardware
from pipeline_lib.training.estimate.report import TrainingEstimate, in_gb
from pipeline_lib.training.estimate.workload import TrainingRows

logger = logging.getLogger(__name__)

_SHORTEST_ROW = 256
Changes = dict[str, Any]
"""Dotted name of a setting to its value."""


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """Settings with which a training fits."""

    changes: Mapping[str, Any]
    """Dotted names below 'finetune' to values."""
    estimate: TrainingEstimate
    num_dropped: int
    """Rows that are too long with it, and were not before."""

    def __str__(self) -> str:
        settings = ", ".join(f"{name}: {_shown(value)}" for name, value in self.changes.items())
        use = self.estimate.device_memory
        text = f"{settings} (then {in_gb(use.num_bytes)} of {in_gb(use.available)}"
        if self.num_dropped:
            text += f"; {self.num_dropped:,} rows would be too long"
        return text + ")"


def check(
    estimate: TrainingEstimate,
    config: FinetuneConfig,
    base_path: Path,
    rows: TrainingRows,
    hardware: Hardware,
) -> None:
    """Refuse a training that does not fit, or warn, as `engine.check_memory` says.

    Args:
        estimate: of `estimate_training` with the other arguments.
        config: of one stage.
        base_path: folder with the base model's `config.json`.
        rows: that will be trained on.
        hardware: of each node.

    Raises:
        ConfigError: it does not fit; the hint names the nearest configuration that does.
    """
    if estimate.fits or config.engine.check_memory == "off":
        return
    problem = _problem(estimate)
    if config.engine.check_memory == "warn":
        logger.warning("%s", problem)
        return
    remedy = nearest_that_fits(config, base_path, rows, hardware)
    hint = (
        f"Set under finetune: {remedy}. Or set engine.check_memory to 'warn' and try."
        if remedy
        else "No setting makes it fit: use a smaller base_model, or a machine with more memory "
        f"(about {in_gb(estimate.shortage)} more)."
    )
    raise ConfigError(problem, hint=hint)


def resolve_checkpointing(
    config: FinetuneConfig, base_path: Path, rows: TrainingRows, hardware: Hardware
) -> bool:
    """Whether to train with gradient checkpointing: what is set, or, for 'auto', what it takes."""
    if config.engine.gradient_checkpointing != "auto":
        return config.engine.gradient_checkpointing == "on"
    return estimate_training(config, base_path, rows, hardware).gradient_checkpointing


def nearest_that_fits(
    config: FinetuneConfig, base_path: Path, rows: TrainingRows, hardware: Hardware
) -> Remedy | None:
    """The least to change so that a training fits; `None` where nothing helps.

    Changes are made one after the other until it fits; then those that turn out not to be needed
    are taken back.
    """

    def attempt(changes: Changes) -> Remedy | None:
        changed = _with(config, changes)
        if changed is None:
            return None
        kept = rows.up_to(changed.batch.max_seq_len)
        if not kept.lengths:
            return None
        told = estimate_training(changed, base_path, kept, hardware)
        num_dropped = len(rows.lengths) - len(kept.lengths)
        return Remedy(changes=changes, estimate=told, num_dropped=num_dropped)

    made: Changes = {}
    shortage = math.inf
    for step in _steps(config, rows, hardware):
        tried = attempt({**made, **step})
        if tried is None or tried.estimate.shortage >= shortage:
            continue
        if tried.estimate.fits:
            return _pruned(tried, attempt)
        made |= step
        shortage = tried.estimate.shortage
    return None


def _pruned(found: Remedy, attempt: Callable[[Changes], Remedy | None]) -> Remedy:
    """Without the changes that it fits without too; the harmless were made first and go first."""
    for name in list(found.changes):
        fewer = {other: value for other, value in found.changes.items() if other != name}
        tried = attempt(fewer) if fewer else None
        if tried is not None and tried.estimate.fits:
            found = tried
    return found


def _steps(config: FinetuneConfig, rows: TrainingRows, hardware: Hardware) -> Iterator[Changes]:
    """What can be changed, the harmless first."""
    engine = config.engine
    if engine.gradient_checkpointing == "off" and config.method != "activated_lora":
        yield {"engine.gradient_checkpointing": "on"}
    yield from _smaller_micro_batches(config)
    if hardware.device == "cpu":  # the ranks of a node share its memory
        for num_processes in range(config.launch.num_processes - 1, 0, -1):
            yield {"launch.num_processes": num_processes}
    else:
        yield from _sharing_and_offloading(config)
    if config.method == "full":
        yield {"method": "lora"}
    if hardware.device == "cuda" and config.method in ("lora", "full"):
        yield {
            "method": "qlora",
            "engine.zero_stage": min(2, engine.zero_stage),
            "engine.offload_optimizer": False,
            "engine.offload_parameters": False,
        }
    longest = max(rows.lengths)
    while (longest := longest // 2) >= _SHORTEST_ROW:
        yield {"batch.max_seq_len": longest}


def _sharing_and_offloading(config: FinetuneConfig) -> Iterator[Changes]:
    if config.method == "qlora":
        return
    stage = config.engine.zero_stage
    if config.batch_arithmetic.num_ranks > 1:
        for higher in range(stage + 1, 4):
            yield {"engine.zero_stage": higher}
    yield {"engine.zero_stage": max(2, stage), "engine.offload_optimizer": True}
    yield {"engine.zero_stage": 3, "engine.offload_optimizer": True}
    yield {"engine.zero_stage": 3, "engine.offload_parameters": True}


def _smaller_micro_batches(config: FinetuneConfig) -> Iterator[Changes]:
    """Those that divide the same global batch, the largest first."""
    arithmetic, batch = config.batch_arithmetic, config.batch
    per_rank = arithmetic.global_batch // arithmetic.num_ranks
    if arithmetic.unit == "rows":
        for size in range(arithmetic.micro_batch - 1, 0, -1):
            if per_rank % size == 0:
                yield {"batch.micro_batch_size": size}
        return
    for count in range(arithmetic.gradient_accumulation_steps + 1, per_rank + 1):
        size = per_rank // count
        if size < batch.max_seq_len:
            return
        if per_rank % count == 0:
            yield {"batch.micro_batch_tokens": size}


def _with(config: FinetuneConfig, changes: Changes) -> FinetuneConfig | None:
    """The configuration with other settings; `None` where they do not go together."""
    values = config.model_dump()
    for name, value in changes.items():
        section, _, field = name.rpartition(".")
        (values[section] if section else values)[field] = value
    try:
        return FinetuneConfig.model_validate(values)
    except ValidationError:
        return None


def _problem(estimate: TrainingEstimate) -> str:
    if not estimate.device_memory.fits:
        where = f"each {estimate.hardware}" if estimate.device == "cuda" else "this machine"
        use = estimate.device_memory
    else:
        where, use = "the node itself (not its GPUs)", estimate.host_memory
    return (
        f"The stage '{estimate.objective}' is estimated to take {use} on {where}, of which "
        f"{in_gb(use.available)} are free"
    )


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
