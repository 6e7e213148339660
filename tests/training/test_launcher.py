"""Real DeepSpeed ranks over gloo: arithmetic, resume, failure, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline_lib.errors import NonFiniteLossError, TrainingError
from pipeline_lib.stage import Workspace
from pipeline_lib.training.checkpoints import (
    complete_steps,
    fetch_latest_checkpoint,
    upload_checkpoint,
)
from pipeline_lib.training.collator import collate
from pipeline_lib.training.launcher import run_training
from pipeline_lib.training.plan import CHECKPOINTS_FOLDER, HISTORY_FILE, TrainingPlan

from .conftest import PlanFactory, random_examples

pytestmark = pytest.mark.slow


def train(plan: TrainingPlan) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    run_training(plan, events.append)
    return events


def history(plan: TrainingPlan, key: str = "loss") -> dict[int, float]:
    entries = map(json.loads, (plan.run_folder / HISTORY_FILE).read_text().splitlines())
    return {entry["step"]: entry[key] for entry in entries if key in entry}


def ranks_of(plan: TrainingPlan) -> list[int]:
    """Pids of live processes that were started for this plan."""
    marker = str(plan.run_folder)
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        command = process.info["cmdline"] or []
        if any(marker in part for part in command) and process.info["status"] != "zombie":
            found.append(process.info["pid"])
    return found


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_ranks_and_micro_batches_equal_one_big_batch_when_answers_differ_in_length(
    make_plan: PlanFactory, tiny_model_path: Path, zero_stage: int
) -> None:
    """Loss and gradient norm of one step over 8 rows: 2 ranks x 2 micro batches x 2 rows."""
    examples = random_examples(8)
    plan = make_plan("run", examples, zero_stage=zero_stage, method="full", max_steps=1)
    train(plan)
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32)
    model.config.use_cache = False
    rows = [{"input_ids": e.input_ids, "num_prompt_tokens": e.num_prompt_tokens} for e in examples]
    num_loss_tokens = sum(e.num_loss_tokens for e in examples)
    loss = model(**collate(rows), num_items_in_batch=num_loss_tokens).loss
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    assert history(plan)[1] == pytest.approx(loss.item(), rel=1e-4)
    assert history(plan, "grad_norm")[1] == pytest.approx(norm.item(), rel=1e-3)


def test_a_run_killed_and_resumed_from_s3_equals_one_that_never_stopped(
    make_plan: PlanFactory, workspace: Workspace
) -> None:
    examples = random_examples(24)
    config = {"num_epochs": 2.0, "checkpoint_every_steps": 2, "zero_stage": 2}
    whole = make_plan("whole", examples, **config)
    train(whole)

    from pipeline_lib.artifacts.manifest import ArtifactRef

    ref = ArtifactRef(kind="model", name="demo", fingerprint="a" * 32)
    partial = workspace.artifacts.partial(ref)
    killed = make_plan("killed", examples, **config)

    def kill_once_the_first_checkpoint_is_stored(event: dict[str, Any]) -> None:
        if event["event"] == "checkpoint" and not complete_steps(partial):
            folder = killed.run_folder / CHECKPOINTS_FOLDER / event["folder"]
            upload_checkpoint(partial, folder, event["step"])
            for pid in ranks_of(killed):
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(TrainingError, match="signal 9"):
        run_training(killed, kill_once_the_first_checkpoint_is_stored)
    assert ranks_of(killed) == []
    assert complete_steps(partial) == [2]

    fetched = fetch_latest_checkpoint(partial, killed.run_folder)
    assert fetched is not None
    resumed = make_plan("resumed", examples, resume_from=fetched[0], **config)
    events = train(resumed)
    steps = [e["step"] for e in events if e["event"] == "step"]
    assert steps == [3, 4, 5, 6]
    for key in ("loss", "grad_norm", "learning_rate", "eval_loss"):
        assert history(resumed, key) == history(whole, key), key


def test_training_on_a_cpu_compiles_nothing(
    make_plan: PlanFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare machine has no C++ compiler, and DeepSpeed would look for one."""
    extensions = tmp_path / "torch-extensions"
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(extensions))
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    train(make_plan("run", random_examples(8), max_steps=1))
    assert not extensions.exists()


def test_a_damaged_newest_checkpoint_is_passed_over(workspace: Workspace, tmp_path: Path) -> None:
    from pipeline_lib.artifacts.manifest import ArtifactRef

    partial = workspace.artifacts.partial(
        ArtifactRef(kind="model", name="demo", fingerprint="a" * 32)
    )
    for step in (2, 4, 6):
        folder = tmp_path / str(step)
        folder.mkdir()
        (folder / "state").write_text(f"state of {step}")
        upload_checkpoint(partial, folder, step)
    assert complete_steps(partial) == [4, 6]
    partial.put("checkpoints/00000006/state", b"something else")
    fetched = fetch_latest_checkpoint(partial, tmp_path / "fetched")
    assert fetched is not None
    assert fetched[1] == 4
    assert (fetched[0] / "state").read_text() == "state of 4"


def test_a_non_finite_loss_stops_the_run_and_says_why(
    make_plan: PlanFactory, tiny_model_path: Path, tmp_path: Path
) -> None:
    import shutil

    import torch
    from transformers import AutoModelForCausalLM

    broken = tmp_path / "broken"
    shutil.copytree(tiny_model_path, broken)
    model = AutoModelForCausalLM.from_pretrained(broken)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    model.save_pretrained(broken)
    plan = make_plan("run", random_examples(8), base_model_path=broken)
    with pytest.raises(NonFiniteLossError, match="nan at step 1") as caught:
        train(plan)
    assert "learning_rate" in str(caught.value)
    assert ranks_of(plan) == []


def test_whatever_ends_the_wait_ends_every_rank(make_plan: PlanFactory) -> None:
    """An exception in the parent, as cancellation raises one."""

    class Cancelled(BaseException):
        pass

    plan = make_plan("run", random_examples(64), num_epochs=1000.0)
    alive: list[int] = []

    def cancel(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            alive.extend(ranks_of(plan))
            raise Cancelled

    with pytest.raises(Cancelled):
        run_training(plan, cancel)
    assert len(alive) >= 3  # torchrun and two ranks
    assert ranks_of(plan) == []


def test_a_parent_killed_by_sigkill_takes_its_ranks_along(
    make_plan: PlanFactory, tmp_path: Path
) -> None:
    plan = make_plan("run", random_examples(64), num_epochs=1000.0)
    plan_path = tmp_path / "given.json"
    plan_path.write_text(plan.model_dump_json())
    script = (
        "import sys; from pathlib import Path;"
        "from pipeline_lib.training.launcher import run_training;"
        "from pipeline_lib.training.plan import TrainingPlan;"
        "plan = TrainingPlan.model_validate_json(Path(sys.argv[1]).read_text());"
        "run_training(plan, lambda event: None)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(plan_path)])
    try:
        _wait_for(lambda: plan.events_path.exists() and "step" in plan.events_path.read_text(), 120)
        assert len(ranks_of(plan)) >= 3
    finally:
        parent.kill()
        parent.wait()
    _wait_for(lambda: ranks_of(plan) == [], 10)


def test_a_run_over_its_time_limit_is_ended(make_plan: PlanFactory) -> None:
    plan = make_plan("run", random_examples(8), timeout_seconds=1)
    with pytest.raises(TrainingError, match="longer than 1 s"):
        train(plan)
    assert ranks_of(plan) == []


def _wait_for(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)
