"""Checkpoints on disk: state by parameter, for any number of ranks under any ZeRO stage.

    state.json               step; the schedule; the loss scale
    trainer_state.json       the Trainer's own: step, log
    pieces-00000.safetensors what rank 0 held (see `engine_state`), with where each piece begins
    random-00000.json        its random generators
    …                        and so for every rank

A rank writes what it holds, and a rank that resumes reads the runs of values that it will hold, out
of whichever files have them: nothing is gathered, converted or copied twice, and nothing is a
pickle. A rank's `random-…` file is written last and says that the rank is done.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pipeline_lib.errors import TrainingError
from pipeline_lib.training.engine_state import WEIGHT, HostState

STATE_FILE = "state.json"
_SEPARATOR = ":"
_OTHER_MODEL = "The checkpoint is damaged, or of another model: delete it, and start the run anew."


def pieces_file(rank: int) -> str:
    """Name of the file of what a rank held."""
    return f"pieces-{rank:05d}.safetensors"


def random_file(rank: int) -> str:
    """Name of the file of a rank's random generators."""
    return f"random-{rank:05d}.json"


def write_pieces(folder: Path, rank: int, state: HostState) -> None:
    """Write what a rank held; complete or not there."""
    path = folder / pieces_file(rank)
    unfinished = path.with_suffix(".unfinished")
    tensors = {
        f"{kind}{_SEPARATOR}{name}": values for (kind, name), values in state.tensors.items()
    }
    save_file(
        tensors,
        unfinished,
        metadata={
            "shapes": json.dumps(state.shapes),
            "starts": json.dumps(state.starts),
            "steps": json.dumps(state.steps),
        },
    )
    unfinished.rename(path)


def write_json(path: Path, content: Any) -> None:
    """Write JSON; complete or not there."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content))
    unfinished.rename(path)


class SavedPieces:
    """A checkpoint's pieces; values are read when asked for, and only those."""

    def __init__(self, folder: Path) -> None:
        self.steps: dict[str, float] = {}
        """Updates made of each parameter."""
        self._shapes: dict[str, list[int]] = {}
        self._folder = folder
        self._runs: dict[tuple[str, str], list[tuple[int, int, Any]]] = {}
        for path in sorted(folder.glob("pieces-*.safetensors")):
            self._index(safe_open(path, "pt"))
        for runs in self._runs.values():
            runs.sort(key=lambda run: run[0])

    def _index(self, file: Any) -> None:
        metadata = file.metadata()
        starts = json.loads(metadata["starts"])
        self._shapes |= json.loads(metadata["shapes"])
        self.steps |= json.loads(metadata["steps"])
        for key in file.keys():  # noqa: SIM118  (it is no mapping)
            kind, _, name = key.partition(_SEPARATOR)
            start = starts[name]
            values = file.get_slice(key)
            (numel,) = values.get_shape()
            self._runs.setdefault((kind, name), []).append((start, start + numel, values))

    def check(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """See that the checkpoint is of a model with parameters of these shapes.

        Raises:
            TrainingError: one is missing, or has another shape.
        """
        for name, shape in shapes.items():
            saved = self._shapes.get(name)
            if saved != list(shape):
                found = f"has it as {saved}" if saved else "does not have it"
                raise TrainingError(
                    f"Parameter {name} has shape {list(shape)}, but the checkpoint in "
                    f"{self._folder} {found}",
                    hint=_OTHER_MODEL,
                )

    def kinds(self, name: str) -> Iterable[str]:
        """What is known of a parameter besides its weight."""
        return sorted(kind for kind, other in self._runs if other == name and kind != WEIGHT)

    def read(self, kind: str, name: str, start: int, numel: int) -> torch.Tensor:
        """Values `start` to `start + numel` of a parameter laid out flat.

        Raises:
            TrainingError: no file has some of them.
        """
        parts, position, end = [], start, start + numel
        for first, last, values in self._runs.get((kind, name), []):
            if first <= position < last:
                until = min(end, last)
                parts.append(values[position - first : until - first])
                position = until
            if position == end:
                return parts[0] if len(parts) == 1 else torch.cat(parts)
        raise TrainingError(
            f"The checkpoint in {self._folder} lacks {kind} of {name} from value {position:,} on",
            hint=_OTHER_MODEL,
        )
