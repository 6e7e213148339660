"""The state of a rank's random generators, as JSON."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import set_seed


def random_state() -> dict[str, Any]:
    """Of Python, NumPy and torch, on the CPU and on this rank's GPU."""
    version, words, gauss = random.getstate()
    algorithm, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": [version, list(words), gauss],
        "numpy": [algorithm, np.asarray(keys).tolist(), position, has_gauss, cached],
        "torch": _to_hex(torch.random.get_rng_state()),
    }
    if torch.cuda.is_available():
        state["cuda"] = _to_hex(torch.cuda.random.get_rng_state())
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Go on where `random_state` was taken."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    algorithm, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((algorithm, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.random.set_rng_state(_from_hex(state["torch"]))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.random.set_rng_state(_from_hex(state["cuda"]))


def restore_random_state(path: Path, *, seed: int, step: int, rank: int) -> None:
    """Set the generators from a file; a rank that there was not then gets a seed of its own."""
    if path.exists():
        set_random_state(json.loads(path.read_text()))
        return
    digest = hashlib.sha256(f"{seed}:{step}:{rank}".encode()).digest()
    set_seed(int.from_bytes(digest[:4], "big"))


def _to_hex(state: torch.Tensor) -> str:
    return bytes(state.cpu().numpy()).hex()


def _from_hex(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
