"""Runs one training as processes that this process owns.

One rank runs by itself, several on one machine under torchrun, and on several machines one torchrun
each, which the others start by `raftline join` or are told to over SSH. Every process dies with its
parent (see `guard`). However the wait ends (success, failure, silence, time limit, cancellation,
Ctrl-C), the ranks are told to save and end, and none is left behind.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from pipeline_lib.errors import HungTrainingError, PreemptedError, TrainingError
from pipeline_lib.training.diagnosis import Ending, oom_kills
from pipeline_lib.training.hostfile import SSH, hosts_of, joined_hosts, meeting_point
from pipeline_lib.training.nodes import Node, command, environment
from pipeline_lib.training.plan import LOG_FILE, EventReader, TrainingPlan
from pipeline_lib.training.presence import NodesLostError, OtherNodes
from pipeline_lib.training.processes import ProcessGroup
from pipeline_lib.training.sharing import SharedTraining
from pipeline_lib.training.watchdog import Watchdog

logger = logging.getLogger(__name__)

EventHandler = Callable[[dict[str, Any]], None]

_POLL_SECONDS = 0.25


def run_training(
    plan: TrainingPlan,
    on_event: EventHandler,
    shared: SharedTraining | None = None,
    remote_shell: Sequence[str] = SSH,
) -> None:
    """Train on all the ranks that `plan.config.launch` asks for, and wait for the end.

    Args:
        plan: what to train; written to `plan.json` in its run folder.
        on_event: called in this process with every event of rank 0, in order. What it raises
            ends the training.
        shared: where other machines find the plan; several nodes need it.
        remote_shell: a command that takes a host and a command line to run there, for
            `launch.launcher` 'hostfile'.

    Raises:
        TrainingError: a rank failed, here or elsewhere, or the time limit passed; names the cause.
        HungTrainingError: no rank gave a sign of life for `launch.hang_seconds`.
        PreemptedError: this process or the ranks were told to end (SIGTERM).
        ConfigError: the nodes cannot meet as configured.
    """
    launch = plan.config.launch
    if launch.num_nodes == 1:
        run_node(plan, Node(), on_event)
        return
    if shared is None:
        raise ValueError("several nodes need a SharedTraining to find the plan in")
    with ExitStack() as stack:
        on_wait: Callable[[], None] = _nothing
        if launch.launcher == "hostfile":
            hosts = hosts_of(launch)
            plan = _meeting_at(plan, meeting_point(launch, hosts))
            remote = stack.enter_context(joined_hosts(hosts, str(shared.ref), remote_shell))
            on_wait = partial(remote.check, shared.others)
        else:
            logger.info(
                "%d other machines are waited for: run 'raftline join %s' on each",
                launch.num_nodes - 1,
                shared.ref,
            )
        stack.enter_context(shared.published(plan))
        run_node(plan, Node(run_id=shared.run_id), on_event, on_wait, shared.others)


def _nothing() -> None:
    """What there is to do while waiting, on one machine."""


def _meeting_at(plan: TrainingPlan, address: str) -> TrainingPlan:
    launch = plan.config.launch.model_copy(update={"address": address})
    config = plan.config.model_copy(update={"launch": launch})
    return plan.model_copy(update={"config": config})


def run_node(
    plan: TrainingPlan,
    node: Node,
    on_event: EventHandler,
    on_wait: Callable[[], None] = _nothing,
    others: OtherNodes | None = None,
) -> None:
    """Run the ranks of one machine and wait for their end; none of them outlives the call.

    Args:
        plan: what to train, its paths of this machine.
        node: which machine of the training this is.
        on_event: called with what the ranks of this machine tell: rank 0 everything, the first
            rank of another machine its checkpoints.
        on_wait: called several times a second. What it raises ends the ranks.
        others: the other machines, which node 0 looks after.

    Raises:
        TrainingError: see `run_training`.
    """
    plan_path = plan.run_folder / "plan.json"
    plan_path.write_text(plan.model_dump_json(indent=1))
    reader = EventReader(plan.events_path)
    kills = oom_kills()
    with _ended_by_sigterm(), (plan.run_folder / LOG_FILE).open("wb") as log:
        process = subprocess.Popen(
            command(plan, plan_path, node),
            env=environment(plan, node, os.environ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        group = ProcessGroup(process)
        grace_seconds = plan.config.launch.grace_seconds
        is_lost = False
        try:
            _wait(process, group, plan, lambda: _handle(reader, on_event, on_wait), others)
        except HungTrainingError:
            grace_seconds = 0  # ranks that hang save nothing
            raise
        except NodesLostError:
            grace_seconds, is_lost = 0, True  # nor do those that wait for a dead one
        finally:
            group.end(grace_seconds, lambda: _handle_last(reader, on_event))
            if is_lost or process.returncode != 0:
                _handle_last(reader, on_event)
    _handle(reader, on_event, _nothing)
    if process.returncode == 0 and not is_lost:
        return
    if others is not None and not is_lost:
        others.settle()
    raise Ending(
        run_folder=plan.run_folder,
        returncode=0 if is_lost else process.returncode,
        oom_kills_before=kills,
        elsewhere=others.reports if others else (),
        lost=others.lost if others else (),
    ).diagnose()


def _wait(
    process: subprocess.Popen[bytes],
    group: ProcessGroup,
    plan: TrainingPlan,
    on_wait: Callable[[], None],
    others: OtherNodes | None,
) -> None:
    """Until the process has ended by itself.

    Raises:
        TrainingError: it took too long, or nothing moves any more.
        NodesLostError: it waits for another machine in vain.
    """
    limit = plan.config.launch.timeout_seconds
    deadline = time.monotonic() + limit
    watchdog = Watchdog(plan, group.ranks)
    while process.poll() is None:
        group.look()
        on_wait()
        watchdog.check()
        if others is not None:
            others.check()
        if time.monotonic() > deadline:
            raise TrainingError(
                f"Training took longer than {limit} s and was ended",
                hint="Raise finetune.launch.timeout_seconds; it resumes from its last checkpoint.",
            )
        time.sleep(_POLL_SECONDS)


def _handle(reader: EventReader, on_event: EventHandler, on_wait: Callable[[], None]) -> None:
    for event in reader.new_events():
        on_event(event)
    on_wait()


def _handle_last(reader: EventReader, on_event: EventHandler) -> None:
    """The checkpoints of a training that is being ended, whose reason to end must not be lost."""
    for event in reader.new_events():
        if event["event"] == "checkpoint":
            try:
                on_event(event)
            except Exception:
                logger.exception("The last checkpoint could not be stored")
            else:
                logger.info("Saved: started again, training goes on after step %d", event["step"])


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM raises `PreemptedError` in the block, unless somebody listens to it already.

    Without that it would end this process at once, and the ranks with it, before they could save.
    """
    is_free = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if not is_free:
        yield
        return

    def end(_number: int, _frame: object) -> None:
        raise PreemptedError(
            "The process that owns the training was told to end (SIGTERM)",
            hint="It goes on from its last checkpoint when started again.",
        )

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
