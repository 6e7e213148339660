"""The Dockerfiles without an engine: linted, pinned, unprivileged, made of commands that run."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.http_serving import serving

WORKERS = ["Dockerfile.worker-cpu", "Dockerfile.worker-gpu"]
ALL = ["Dockerfile.server", *WORKERS]


def steps(dockerfiles: dict[str, list[Any]], name: str, instruction: str) -> list[Any]:
    return [step for step in dockerfiles[name] if step.name == instruction]


def shell_commands(dockerfiles: dict[str, list[Any]], name: str) -> list[str]:
    """Every command of every RUN, without the variables in front of it."""
    joined = [step.rest for step in steps(dockerfiles, name, "RUN")]
    commands = [part.strip() for text in joined for part in text.split("&&")]
    return [re.sub(r'^(\w+=("[^"]*"|\S*)\s+)+', "", command) for command in commands]


def test_these_are_all_dockerfiles(dockerfiles: dict[str, list[Any]]) -> None:
    assert sorted(dockerfiles) == sorted(ALL)


def test_hadolint_has_nothing_to_say(docker_folder: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    paths = [str(docker_folder / name) for name in ALL]
    checked = subprocess.run(
        [hadolint, "--config", docker_folder / ".hadolint.yaml", *paths],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_all_images_rest_on_one_pinned_python(dockerfiles: dict[str, list[Any]]) -> None:
    bases = {step.words[0] for name in ALL for step in steps(dockerfiles, name, "FROM")}
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", bases.pop())


@pytest.mark.parametrize("name", ALL)
def test_the_image_does_not_run_as_root(dockerfiles: dict[str, list[Any]], name: str) -> None:
    instructions = [step.name for step in dockerfiles[name]]
    users = [step.rest for step in steps(dockerfiles, name, "USER")]
    assert users == ["10001:10001"]
    last_change = max(i for i, each in enumerate(instructions) if each in {"RUN", "COPY"})
    assert instructions.index("USER") > last_change


@pytest.mark.parametrize("name", ALL)
def test_what_is_copied_exists_and_reaches_the_build(
    dockerfiles: dict[str, list[Any]], name: str, docker_folder: Path
) -> None:
    root = docker_folder.parent
    rules = (root / ".dockerignore").read_text().splitlines()
    let_through = [rule[1:] for rule in rules if rule.startswith("!")]
    for step in steps(dockerfiles, name, "COPY"):
        if step.rest.startswith("--from="):
            continue
        for source in step.words[:-1]:
            assert (root / source).exists(), source
            assert any(fnmatch(source, rule) for rule in let_through), source


def test_the_build_context_holds_no_secrets_and_no_state(docker_folder: Path) -> None:
    rules = (docker_folder.parent / ".dockerignore").read_text().splitlines()
    rules = [rule for rule in rules if rule and not rule.startswith("#")]
    assert rules[0] == "*", "everything is left out but what is named"
    assert not [rule for rule in rules if rule in {"!.", "!docker", "!.git", "!.raftline"}]


@pytest.mark.parametrize("name", WORKERS)
def test_the_image_installs_with_the_makefile_as_everybody_does(
    dockerfiles: dict[str, list[Any]], name: str, docker_folder: Path
) -> None:
    targets = [
        command.split()[1:]
        for command in shell_commands(dockerfiles, name)
        if command.startswith("make ")
    ]
    assert targets == [["dependencies"], ["install"]]
    for target in targets:
        planned = subprocess.run(
            ["make", "--dry-run", *target, "VENV=/nonexistent/venv"],
            cwd=docker_folder.parent,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert planned.returncode == 0, planned.stderr
        assert "--require-hashes -r requirements.lock" in planned.stdout


@pytest.mark.parametrize("name", WORKERS)
def test_the_raftline_commands_exist(dockerfiles: dict[str, list[Any]], name: str) -> None:
    commands = [
        command for command in shell_commands(dockerfiles, name) if command.startswith("raftline ")
    ]
    assert commands == ["raftline models fetch"]
    program = Path(sys.executable).with_name("raftline")
    shown = subprocess.run(
        [program, *commands[0].split()[1:], "--help"], capture_output=True, text=True, timeout=60
    )
    assert shown.returncode == 0, shown.stderr


def test_workers_start_as_the_compose_file_starts_them(
    dockerfiles: dict[str, list[Any]], services: dict[str, dict[str, Any]]
) -> None:
    for kind in ("cpu", "gpu"):
        [command] = steps(dockerfiles, f"Dockerfile.worker-{kind}", "CMD")
        assert command.words == services[f"worker-{kind}"]["command"]


def test_the_server_starts_as_the_compose_file_starts_it(
    dockerfiles: dict[str, list[Any]], services: dict[str, dict[str, Any]]
) -> None:
    [command] = steps(dockerfiles, "Dockerfile.server", "CMD")
    assert command.words == services["server"]["command"]


@pytest.mark.parametrize("name", ALL)
def test_every_variable_is_one_that_somebody_reads(
    dockerfiles: dict[str, list[Any]],
    name: str,
    prefect_variables: set[str],
    docker_folder: Path,
) -> None:
    from pipeline_lib.settings import Settings

    text = " ".join(step.rest for step in steps(dockerfiles, name, "ENV"))
    given = set(re.findall(r"(\w+)=", text))
    ours = {f"RAFTLINE_{field.upper()}" for field in Settings.model_fields}
    pull_steps = (docker_folder.parent / "deployments" / "prefect.yaml").read_text()
    ours |= {"RAFTLINE_MODEL_CACHE", *re.findall(r"\$(RAFTLINE_\w+)", pull_steps)}
    others = {
        "PATH",
        "PYTHONUNBUFFERED",
        "DO_NOT_TRACK",
        "HF_HOME",
        "DS_ACCELERATOR",
        "NVIDIA_VISIBLE_DEVICES",
        "NVIDIA_DRIVER_CAPABILITIES",
    }
    assert given - prefect_variables - ours - others == set()


def test_the_gpu_image_needs_no_compiler_because_no_kernel_is_compiled() -> None:
    """An optimizer or an offload in DeepSpeed's configuration would bring compiled kernels in."""
    from pipeline_lib.config import FinetuneConfig
    from pipeline_lib.training.deepspeed import deepspeed_config
    from pipeline_lib.training.plan import TrainingPlan

    for stage in (0, 1, 2, 3):
        made = FinetuneConfig.model_validate({"engine": {"zero_stage": stage}})
        config = deepspeed_config(
            TrainingPlan(
                config=made,
                batch=made.batch_arithmetic,
                base_model_path=Path(),
                files={},
                run_folder=Path(),
                device="cuda",
                precision="bf16",
                learning_rate=1e-3,
                num_epochs=1,
            )
        )
        assert "optimizer" not in config
        assert not [key for key in config["zero_optimization"] if "offload" in key]
        assert config["zero_force_ds_cpu_optimizer"] is False


class _Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def worker_webserver() -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), _Healthy)
    with serving(server):
        yield server.server_port


@pytest.mark.parametrize("name", WORKERS)
def test_the_health_check_asks_where_the_worker_answers(
    dockerfiles: dict[str, list[Any]], name: str, worker_webserver: int
) -> None:
    [check] = steps(dockerfiles, name, "HEALTHCHECK")
    environment = " ".join(step.rest for step in steps(dockerfiles, name, "ENV"))
    assert "PREFECT_WORKER_WEBSERVER_PORT=8080" in environment
    snippet = re.search(r'"-c", "([^"]+)"', check.rest)
    assert snippet is not None
    for port, expected in ((worker_webserver, 0), (1, 1)):
        code = snippet[1].replace("8080", str(port))
        checked = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30)
        assert checked.returncode == expected
