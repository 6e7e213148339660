"""SIGTERM to any rank: all ranks agree to stop at the next step boundary."""

from __future__ import annotations

import signal
import types
from typing import Any

import torch


class StopRequest:
    """Remembers that this process was told to end, instead of ending."""

    def __init__(self) -> None:
        self._is_requested = False
        self._before: Any = None

    def listen(self) -> None:
        """Handle SIGTERM from now on."""
        self._before = signal.signal(signal.SIGTERM, self._on_signal)

    def stop_listening(self) -> None:
        """Handle SIGTERM as before."""
        signal.signal(signal.SIGTERM, self._before)

    def _on_signal(self, number: int, frame: types.FrameType | None) -> None:  # noqa: ARG002
        self._is_requested = True

    def is_agreed(self, device: torch.device) -> bool:
        """Whether any rank was told to end; collective, and the same answer on all of them."""
        if not torch.distributed.is_initialized():
            return self._is_requested
        flag = torch.tensor(int(self._is_requested), device=device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return bool(flag)
