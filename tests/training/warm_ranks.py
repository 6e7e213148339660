"""Ranks that start within a second: forked from a process that has imported everything.

They run the worker as torchrun would start it, so that a test can afford many trainings, and kill
one of them wherever it likes.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from deployments.stack.ports import free_port
from pipeline_lib.training.launcher import EventHandler
from pipeline_lib.training.plan import HISTORY_FILE, EventReader, TrainingPlan

_PRELOADED = (
    "torch",
    "transformers.trainer",
    "transformers.models.llama.modeling_llama",
    "deepspeed",
    "deepspeed.runtime.zero.muon.muon_optimizer",  # which imports the compiler: seconds
    "peft",
    "datasets",
    "setuptools",  # which DeepSpeed asks for a compiler
    "pipeline_lib.training.worker",
    "pipeline_lib.training.model",
    "pipeline_lib.training.objectives.supervised_trainer",
    "pipeline_lib.training.objectives.preference_trainer",
    "pipeline_lib.training.objectives.reinforcement_trainer",
)
_context: ForkServerContext | None = None


class Ranks:
    """The processes of one training; `with Ranks(plan) as ranks: …` leaves none behind."""

    def __init__(self, plan: TrainingPlan) -> None:
        self._plan = plan
        self._events = EventReader(plan.events_path)
        self.events: list[dict[str, Any]] = []
        path = plan.run_folder / "plan.json"
        path.write_text(plan.model_dump_json())
        world, port = plan.batch.num_ranks, free_port()
        self.processes = [
            _fork_server().Process(target=_run_rank, args=(path, rank, world, port))
            for rank in range(world)
        ]

    def __enter__(self) -> Ranks:
        for process in self.processes:
            process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for process in self.processes:
            process.join()

    def kill(self) -> None:
        """SIGKILL to those that live."""
        for process in self.processes:
            if process.is_alive():
                process.kill()

    def follow(self) -> Iterator[dict[str, Any]]:
        """Events as they come, until the ranks have ended."""
        while any(process.is_alive() for process in self.processes):
            yield from self._news()
            time.sleep(0.005)
        yield from self._news()

    def _news(self) -> Iterator[dict[str, Any]]:
        for event in self._events.new_events():
            self.events.append(event)
            yield event

    def wait_until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for an event."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            is_alive = all(process.is_alive() for process in self.processes)
            for event in self._news():
                if condition(event):
                    return event
            assert is_alive, self.log()
            time.sleep(0.005)
        raise AssertionError(f"no such event in {self.events}; {self.log()}")

    def wait(self) -> list[int | None]:
        """Exit codes, after the ranks have ended."""
        for process in self.processes:
            process.join(60)
        self.events.extend(self._events.new_events())
        return [process.exitcode for process in self.processes]

    def log(self) -> str:
        """What the ranks printed."""
        return "\n".join(path.read_text() for path in self._plan.run_folder.glob("rank-*.log"))


def train(plan: TrainingPlan) -> list[dict[str, Any]]:
    """Train to the end; the events."""
    with Ranks(plan) as ranks:
        assert set(ranks.wait()) == {0}, ranks.log()
    return ranks.events


def launch(plan: TrainingPlan, on_event: EventHandler, _shared: object = None) -> None:
    """What `launcher.run_training` does for one machine, without torchrun."""
    with Ranks(plan) as ranks:
        for event in ranks.follow():
            on_event(event)
        assert set(ranks.wait()) == {0}, ranks.log()


def history(plan: TrainingPlan, key: str = "loss") -> dict[int, float]:
    """A column of the training's log, by step."""
    entries = map(json.loads, (plan.run_folder / HISTORY_FILE).read_text().splitlines())
    return {entry["step"]: entry[key] for entry in entries if key in entry}


def _fork_server() -> ForkServerContext:
    global _context
    if _context is None:
        # Inherited by the ranks, which the launcher would give them.
        os.environ.update(DS_ACCELERATOR="cpu", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")
        os.environ.update(GLOO_SOCKET_IFNAME="lo")
        _context = multiprocessing.get_context("forkserver")
        _context.set_forkserver_preload(list(_PRELOADED))
    return _context


def _run_rank(plan_path: Path, rank: int, world: int, port: int) -> None:
    gc.freeze()  # a collection would go through all that is imported, and copy it
    log = os.open(plan_path.parent / f"rank-{rank}.log", os.O_CREAT | os.O_WRONLY)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    # Locks that a killed process leaves behind would otherwise be complained of at the end.
    multiprocessing.set_start_method("fork", force=True)
    from pipeline_lib.training.worker import main

    main(plan_path)
