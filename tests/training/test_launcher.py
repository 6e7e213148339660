"""Ranks over gloo under torchrun: what training needs to start, and that nothing is left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.errors import TrainingError
from pipeline_lib.training.launcher import run_training
from pipeline_lib.training.plan import EXPORT_FOLDER

from .conftest import PlanFactory, random_examples
from .scripted_plans import (
    WORKER,
    ScriptedPlan,
    processes_of,
    train,
    wait_for,
)

pytestmark = pytest.mark.slow


def test_one_rank_trains_alone_and_compiles_nothing(
    make_plan: PlanFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare machine has no C++ compiler, and DeepSpeed would look for one."""
    extensions = tmp_path / "torch-extensions"
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(extensions))
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    plan = make_plan(
        "run", random_examples(8), supervised={"max_steps": 1}, launch={"num_processes": 1}
    )
    events = train(plan)
    assert [event["event"] for event in events if event["event"] in ("start", "step")] == [
        "start",
        "step",
    ]
    assert any((plan.run_folder / EXPORT_FOLDER).glob("*.safetensors"))
    assert not extensions.exists()


def test_whatever_ends_the_wait_ends_every_rank(scripted: ScriptedPlan) -> None:
    """An exception in the parent, as cancellation raises one."""

    class Cancelled(BaseException):
        pass

    plan = scripted(["wait:1", "event:step", "hang"], ["hang"])
    alive: list[int] = []

    def cancel(event: dict[str, Any]) -> None:
        alive.extend(processes_of(plan))
        raise Cancelled

    with pytest.raises(Cancelled):
        run_training(plan, cancel)
    assert len(alive) >= 3  # torchrun and two ranks
    assert processes_of(plan) == []


def test_a_parent_killed_by_sigkill_takes_its_ranks_along(scripted: ScriptedPlan) -> None:
    plan = scripted(["wait:1", "event:step", "hang"], ["hang"])
    given = plan.run_folder / "given.json"
    given.write_text(plan.model_dump_json())
    script = (
        "import sys; from pathlib import Path;"
        "from pipeline_lib.training import launcher, nodes, processes;"
        "from pipeline_lib.training.plan import TrainingPlan;"
        f"nodes.WORKER_MODULE = processes.WORKER_MODULE = {WORKER!r};"
        "plan = TrainingPlan.model_validate_json(Path(sys.argv[1]).read_text());"
        "launcher.run_training(plan, lambda event: None)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(given)])
    try:
        wait_for(lambda: plan.events_path.exists() and plan.events_path.stat().st_size > 0, 100)
        assert len(processes_of(plan)) >= 4  # with the parent
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: processes_of(plan) == [], 10)


def test_a_run_over_its_time_limit_is_ended(scripted: ScriptedPlan) -> None:
    plan = scripted(["hang"], ["hang"], timeout_seconds=1)
    with pytest.raises(TrainingError, match="longer than 1 s"):
        train(plan)
    assert processes_of(plan) == []
