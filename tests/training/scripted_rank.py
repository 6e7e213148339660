"""A rank that does what a script says, and knows nothing of models: starts in a moment.

`script.json` in the run folder has a list of actions for each rank, by its number. An action is a
word, or a word and its value after a colon.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from pipeline_lib.errors import NonFiniteLossError, PreemptedError
from pipeline_lib.training.diagnosis import record_error
from pipeline_lib.training.ending import run_and_end
from pipeline_lib.training.guard import die_with_parent
from pipeline_lib.training.heartbeat import Heartbeat
from pipeline_lib.training.plan import PREEMPTED_EXIT, TrainingPlan, append_event
from pipeline_lib.training.watchdog import STACK_SIGNAL, stack_path


class Rank:
    """One method for each action."""

    def __init__(self, plan: TrainingPlan, rank: int) -> None:
        self._plan = plan
        self._rank = rank
        self._heart = Heartbeat(plan.run_folder, rank)

    def say(self, text: str) -> None:
        print(text, flush=True)  # noqa: T201

    def beat(self, step: str) -> None:
        self._heart.beat(int(step))

    def event(self, name: str) -> None:
        told = {"step": 1, "folder": "checkpoint-1", "is_best": False, "node": 0}
        append_event(self._plan.events_path, name, **told)

    def show(self, variable: str) -> None:
        (self._plan.run_folder / f"shown-{self._rank}").write_text(os.environ.get(variable, ""))

    def wait(self, seconds: str) -> None:
        time.sleep(float(seconds))

    def meet(self) -> None:
        """Until every rank is here, on whichever machine."""
        import torch

        torch.distributed.init_process_group("gloo")
        torch.distributed.barrier()
        time.sleep(self._rank == 0)  # so that the others' errors come first

    def hang(self) -> None:
        time.sleep(1000)

    def die(self, number: str) -> None:
        os.kill(os.getpid(), int(number))

    def exit(self, code: str) -> None:
        sys.exit(int(code))

    def fail(self, message: str) -> None:
        raise RuntimeError(message)

    def diverge(self) -> None:
        raise NonFiniteLossError("The loss became nan at step 3", hint="Lower the learning_rate.")

    def fill_disk(self) -> None:
        raise OSError(28, "No space left on device", str(self._plan.run_folder / "big"))

    def save_when_told(self) -> None:
        def save(_number: int, _frame: FrameType | None) -> None:
            self.event("checkpoint")
            raise PreemptedError("told")

        signal.signal(signal.SIGTERM, save)

    def ignore_when_told(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def main(plan_path: Path) -> None:
    die_with_parent()
    plan = TrainingPlan.model_validate_json(plan_path.read_text())
    number = int(os.environ["RANK"])
    stacks = stack_path(plan.run_folder, number).open("w")
    faulthandler.register(STACK_SIGNAL, file=stacks)
    script = json.loads((plan.run_folder / "script.json").read_text())
    rank = Rank(plan, number)
    try:
        for action in script[str(number)]:
            name, _, value = action.partition(":")
            getattr(rank, name)(*([value] if value else []))
    except PreemptedError:
        sys.exit(PREEMPTED_EXIT)
    except Exception as error:
        record_error(plan.run_folder, number, error)
        raise


if __name__ == "__main__":
    run_and_end(lambda: main(Path(sys.argv[1])))
