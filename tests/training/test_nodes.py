"""Several machines: how they are addressed, what they share, and two of them training as one."""

from __future__ import annotations

import re
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from deployments.stack.ports import free_port
from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import FinetuneConfig, LaunchConfig
from pipeline_lib.errors import ConfigError, ModelNotFoundError, TrainingError
from pipeline_lib.models import resolve_model
from pipeline_lib.stage import Workspace
from pipeline_lib.training import joining, presence
from pipeline_lib.training.checkpoints import (
    best_step,
    complete_steps,
    fetch_checkpoint,
    upload_checkpoint,
)
from pipeline_lib.training.hostfile import Host, hosts_of, joined_hosts, parse_hostfile
from pipeline_lib.training.joining import join_training
from pipeline_lib.training.launcher import run_training
from pipeline_lib.training.nodes import (
    Node,
    command,
    environment,
    interface_of,
    local_address_towards,
    split_address,
)
from pipeline_lib.training.plan import CHECKPOINTS_FOLDER, EXPORT_FOLDER, TrainingPlan
from pipeline_lib.training.sharing import JoinedTraining, SharedTraining, current_beat
from pipeline_lib.training.uploading import CheckpointUploader

from .conftest import PlanFactory, random_examples
from .scripted_plans import ScriptedPlan, processes_of, scripted_plans, wait_for
from .warm_ranks import history, train

REF = ArtifactRef(kind="model", name="docs", fingerprint="a" * 32)
FAKE_SSH = ("sh", "-c", 'exec sh -c "$1"')
"""Runs the command line here; the host is what `sh` calls the command."""


@pytest.fixture
def shared(workspace: Workspace, tiny_model_path: Path) -> SharedTraining:
    """A training of the tiny model that other machines can find."""
    base = resolve_model(workspace.settings, str(tiny_model_path))
    return SharedTraining(ref=REF, partial=workspace.artifacts.partial(REF), base=base)


@pytest.fixture
def scripted(
    tmp_path: Path, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ScriptedPlan:
    """A plan whose ranks do as told."""
    folder = tmp_path / "node-0"
    folder.mkdir()
    return scripted_plans(folder, monkeypatch, tiny_model_path)


def two_nodes(tmp_path: Path, **launch: Any) -> TrainingPlan:
    """One rank on each of two nodes that meet on the loopback."""
    config = FinetuneConfig.model_validate(
        {
            "batch": {"global_batch_size": 2},
            "launch": {
                "num_nodes": 2,
                "num_processes": 1,
                "address": "127.0.0.1:29511",
                **launch,
            },
        }
    )
    return TrainingPlan(
        config=config,
        batch=config.batch_arithmetic,
        base_model_path=tmp_path,
        files={},
        run_folder=tmp_path,
        device="cpu",
        precision="fp32",
        learning_rate=1e-3,
        num_epochs=1,
    )


def test_an_address_is_a_host_and_a_port() -> None:
    assert split_address("10.0.0.5:29500") == ("10.0.0.5", 29500)
    assert split_address("[fd00::5]:29500") == ("fd00::5", 29500)
    for wrong in ("10.0.0.5", ":29500", "host:port", "host:70000"):
        with pytest.raises(ConfigError, match="must be host:port"):
            split_address(wrong)


def test_every_loopback_address_has_the_interface_of_the_loopback() -> None:
    assert interface_of("127.0.0.2") == interface_of("127.0.0.1")
    assert local_address_towards("127.0.0.1").startswith("127.")
    with pytest.raises(ConfigError, match=r"192\.0\.2\.77"):
        interface_of("192.0.2.77")
    with pytest.raises(ConfigError, match="no way to"):
        local_address_towards("no-such-host.invalid", patience_seconds=0)


def test_a_static_rendezvous_gives_every_node_its_number(tmp_path: Path) -> None:
    plan = two_nodes(tmp_path)
    words = command(plan, tmp_path / "plan.json", Node(rank=1, run_id="r1"))
    for word in (
        "--rdzv-backend=static",
        "--rdzv-id=r1",
        "--nnodes=2",
        "--node-rank=1",
        "--master-addr=127.0.0.1",
        "--master-port=29511",
    ):
        assert word in words
    plan = two_nodes(tmp_path, address="[::1]:29511")
    words = command(plan, tmp_path / "plan.json", Node(rank=1, local_address="::1"))
    assert "--master-addr=[::1]" in words  # as torchrun wants it


def test_by_a_c10d_rendezvous_node_0_comes_first_whatever_the_addresses(tmp_path: Path) -> None:
    """torchrun sorts nodes by address as text, and '127…' would come before 'node-0'."""
    plan = two_nodes(tmp_path, rendezvous="c10d", address="node-0.cluster:29511")

    def address_of(node: Node) -> str:
        words = command(plan, tmp_path / "plan.json", node)
        return next(word for word in words if word.startswith("--local-addr="))

    first = address_of(Node(rank=0))
    assert first == "--local-addr=node-0.cluster"
    assert first < address_of(Node(rank=1, local_address="127.0.0.2"))


def test_ranks_inherit_nothing_from_a_launcher_around_the_owner(tmp_path: Path) -> None:
    given = {"RANK": "3", "WORLD_SIZE": "8", "PET_NODE_RANK": "2", "KEPT": "yes"}
    made = environment(two_nodes(tmp_path), Node(), given)
    assert made["KEPT"] == "yes"
    assert made.keys().isdisjoint({"RANK", "WORLD_SIZE", "PET_NODE_RANK"})


def test_a_hostfile_is_read_as_deepspeed_reads_it() -> None:
    text = "# our cluster\nnode-1 slots=8\n\nnode-2  slots = 8  # the new one\n"
    assert parse_hostfile(text) == [Host("node-1", 8), Host("node-2", 8)]
    for wrong, complaint in (
        ("node-1\n", "line 1: 'node-1' is not 'host slots=n'"),
        ("node-1 slots=0\n", "is not 'host slots=n'"),
        ("node-1 slots=8\nnode-1 slots=8\n", "line 2: 'node-1' comes twice"),
        ("# nothing\n", "names no host"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            parse_hostfile(wrong)


def test_a_hostfile_must_say_what_the_launch_says(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    launch = LaunchConfig(launcher="hostfile", hostfile=str(file), num_nodes=2, num_processes=8)
    with pytest.raises(ConfigError, match="cannot be read"):
        hosts_of(launch)
    file.write_text("a slots=8\n")
    with pytest.raises(ConfigError, match=r"names 1 hosts, but finetune\.launch\.num_nodes is 2"):
        hosts_of(launch)
    file.write_text("a slots=8\nb slots=4\n")
    with pytest.raises(ConfigError, match="gives b 4 slots, but every node runs 8"):
        hosts_of(launch)


def test_a_host_that_cannot_take_part_is_named_with_what_it_said(shared: SharedTraining) -> None:
    refusing = ("sh", "-c", "echo no route to $0; exit 255")
    with (
        joined_hosts([Host("a", 1), Host("b", 1)], str(REF), refusing) as hosts,
        pytest.raises(TrainingError, match=r"(?s)Host b .*255.*no route to b"),
    ):
        wait_for(lambda: hosts.check(shared.others) is not None, 10)


def test_a_host_that_had_joined_is_lost_when_its_command_fails(shared: SharedTraining) -> None:
    with joined_hosts([Host("a", 1), Host("b", 1)], str(REF), ("sh", "-c", "exit 255")) as hosts:
        shared.partial.put(f"training/{shared.run_id}/nodes/1/alive", b"1")
        wait_for(lambda: hosts.check(shared.others) is None and shared.others.lost == [1], 10)


def test_another_machine_gets_the_plan_with_paths_of_its_own(
    shared: SharedTraining, make_plan: PlanFactory, tmp_path: Path
) -> None:
    """Data, the checkpoints to go on from and back to, and the base model, wherever that lies."""
    plan = make_plan("node-0", random_examples(2), supervised={"select_best": True})
    best = plan.run_folder / "best"
    best.mkdir()
    (best / "pieces").write_text("of step 2")
    checkpoint = plan.run_folder / "resume-4"
    (checkpoint / "rng").mkdir(parents=True)
    (checkpoint / "rng" / "state.json").write_text("{}")
    (checkpoint / "trainer_state.json").write_text('{"global_step": 4}')
    upload_checkpoint(shared.partial, best, 2, is_best=True)
    upload_checkpoint(shared.partial, checkpoint, 4)  # from where node 0 has it, too
    plan = plan.model_copy(update={"resume_from": checkpoint})
    there, base_there = tmp_path / "node-1", tmp_path / "cache" / "base"
    with shared.published(plan):
        joined = JoinedTraining(shared.partial, shared.run_id)
        fetched = joined.fetch(joined.shared_plan(), there, base_there, None)
        beat = current_beat(shared.partial)
    assert beat is not None
    assert beat.run_id == shared.run_id
    assert current_beat(shared.partial) is None  # nothing to join any more
    assert fetched.run_folder == there
    assert fetched.base_model_path == base_there
    assert fetched.resume_from == there / "resume-4"
    assert (there / "resume-4" / "rng" / "state.json").read_text() == "{}"
    assert (there / CHECKPOINTS_FOLDER / "checkpoint-2" / "pieces").read_text() == "of step 2"
    for split in ("train", "validation"):
        assert fetched.files[split].parent == there
        assert fetched.files[split].read_bytes() == plan.files[split].read_bytes()
    assert fetched.batch == plan.batch


def test_a_run_that_was_killed_is_not_joined(
    workspace: Workspace,
    shared: SharedTraining,
    make_plan: PlanFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It left its plan behind, but nobody renews the sign that it lives."""
    monkeypatch.setattr(joining, "_LOOK_SECONDS", 0.05)
    with shared.published(make_plan("node-0", random_examples(2))):
        left = shared.partial.get("training/current.json")
    assert left is not None
    shared.partial.put("training/current.json", left)
    with pytest.raises(TrainingError, match=r"No training of model/docs/a+ began within"):
        join_training(workspace, REF, Node(rank=1), patience_seconds=0.3)


def test_a_machine_with_another_base_model_does_not_take_part(
    workspace: Workspace,
    shared: SharedTraining,
    make_plan: PlanFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(presence, "_BEAT_SECONDS", 0.05)
    monkeypatch.setattr(joining, "_LOOK_SECONDS", 0.1)
    other = SharedTraining(
        ref=REF,
        partial=shared.partial,
        base=type(shared.base)(shared.base.name, shared.base.path, "sha256:other"),
    )
    with (
        other.published(make_plan("node-0", random_examples(2))),
        pytest.raises(ModelNotFoundError, match="sha256:other on node 0"),
    ):
        join_training(workspace, REF, Node(rank=1), patience_seconds=10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("here", "there", "told"),
    [
        (
            ["meet", "fail:connection closed by peer"],
            ["meet", "fail:row 7 has no tokens"],
            "Rank 1 failed with RuntimeError: row 7 has no tokens",
        ),
        # What waits in NCCL notices nothing; nor does an upload that waits for the other's part.
        (
            ["event:checkpoint", "meet", "hang"],
            ["meet", "die:9"],
            r"Rank 1 .* signal 9 \(SIGKILL\)",
        ),
    ],
)
def test_node_0_ends_soon_and_tells_what_a_rank_on_another_machine_died_of(
    workspace: Workspace,
    shared: SharedTraining,
    scripted: ScriptedPlan,
    here: list[str],
    there: list[str],
    told: str,
) -> None:
    """A static rendezvous."""
    plan = scripted(
        ["event:start", *here],
        there,
        num_nodes=2,
        address=f"127.0.0.1:{free_port()}",
        grace_seconds=1,
    )
    folder = plan.run_folder / CHECKPOINTS_FOLDER / "checkpoint-1"
    folder.mkdir(parents=True)
    (folder / "state").write_text("of node 0")
    elsewhere: list[Exception] = []

    def join() -> None:
        try:
            join_training(workspace, REF, Node(rank=1, local_address="127.0.0.2"), 60)
        except TrainingError as error:
            elsewhere.append(error)

    uploader = CheckpointUploader(
        shared.partial, folder.parent, keep_last=2, num_nodes=2, is_gone=shared.others.is_gone
    )
    other = threading.Thread(target=join)
    other.start()
    started = time.monotonic()
    with pytest.raises(TrainingError, match=told), uploader:
        run_training(plan, uploader.on_event, shared)
    assert time.monotonic() - started < 60
    other.join(60)
    assert re.search(told, str(elsewhere[0]))
    assert complete_steps(shared.partial) == []
    assert processes_of(plan) == []


@pytest.mark.slow
def test_two_machines_learn_and_export_what_one_with_two_ranks_does(
    shared: SharedTraining, make_plan: PlanFactory, tmp_path: Path
) -> None:
    """Two addresses of the loopback, one rank each, ZeRO-3, joined over (no) SSH by c10d.

    At so high a rate an earlier step is the best; each machine has its own part of it only.
    """
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("127.0.0.1 slots=1\n127.0.0.2 slots=1\n")
    config: dict[str, Any] = {
        "engine": {"zero_stage": 3},
        "method": "full",
        "supervised": {
            "max_steps": 3,
            "learning_rate": 0.3,
            "validate_every_steps": 1,
            "select_best": True,
        },
    }
    one = make_plan("one", random_examples(16), launch={"num_processes": 2}, **config)
    train(one)
    nodes = {
        "num_nodes": 2,
        "num_processes": 1,
        "launcher": "hostfile",
        "hostfile": str(hostfile),
        "rendezvous": "c10d",
    }
    two = make_plan("two", random_examples(16), launch=nodes, **config)
    told: dict[str, list[int]] = defaultdict(list)
    uploader = CheckpointUploader(
        shared.partial,
        two.run_folder / CHECKPOINTS_FOLDER,
        keep_last=2,
        keep_best_here=True,
        num_nodes=2,
        is_gone=shared.others.is_gone,
    )

    def on_event(event: dict[str, Any]) -> None:
        uploader.on_event(event)
        told[event["event"]].append(event.get("step", 0))

    with uploader:
        run_training(two, on_event, shared, remote_shell=FAKE_SSH)
    for measure in ("loss", "grad_norm", "eval_loss"):
        assert history(two, measure) == history(one, measure) != {}, measure
    assert told["step"] == [1, 2, 3]
    best = best_step(shared.partial)
    assert best is not None
    assert best < 3
    assert told["best"] == [best]
    assert complete_steps(shared.partial)[-1] == 3
    folder = tmp_path / "fetched"
    assert fetch_checkpoint(shared.partial, best, folder)
    assert len(list(folder.glob("*random*1*"))) == 1  # the other machine's part
    assert_exported(two, folder)
    assert_exported(one, folder)


def assert_exported(plan: TrainingPlan, folder: Path) -> None:
    """What a training exported is the weights of a checkpoint."""
    from transformers import AutoModelForCausalLM

    from pipeline_lib.training.universal import SavedPieces

    saved = SavedPieces(folder)
    exported = AutoModelForCausalLM.from_pretrained(plan.run_folder / EXPORT_FOLDER)
    for name, parameter in exported.named_parameters():
        weights = saved.read("weight", name, 0, parameter.numel())
        assert parameter.detach().flatten().equal(weights), name
