"""The compose file without an engine: it is true of Prefect, of our code and of itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.http_serving import serving

OWN_IMAGE = re.compile(r"^raftline/")
SECRET_NAME = re.compile(r"PASSWORD|SECRET|API_KEY|ACCESS_KEY|AUTH_STRING")


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of this environment's `bin` as a container would find it on its path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        command,
        env=os.environ | {"PATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def own_services(services: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: each for name, each in services.items() if OWN_IMAGE.match(each["image"])}


def test_it_conforms_to_the_compose_specification(docker_folder: Path) -> None:
    checked = run(
        [
            "check-jsonschema",
            "--builtin-schema=vendor.compose-spec",
            str(docker_folder / "compose.yaml"),
        ]
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_image_is_pinned_to_a_version(services: dict[str, dict[str, Any]]) -> None:
    for service in services.values():
        _, _, tag = service["image"].rpartition(":")
        assert re.match(r"v?\d+\.\d+", tag), service["image"]


def test_our_images_carry_the_version_of_the_package(
    services: dict[str, dict[str, Any]], docker_folder: Path
) -> None:
    project = tomllib.loads((docker_folder.parent / "pyproject.toml").read_text())["project"]
    tags = {each["image"].rpartition(":")[2] for each in own_services(services).values()}
    assert tags == {project["version"]}


def test_our_images_are_built_from_dockerfiles_that_exist(
    services: dict[str, dict[str, Any]], docker_folder: Path
) -> None:
    built = {
        each["image"]: each["build"]["dockerfile"] for each in services.values() if "build" in each
    }
    assert set(built) == {each["image"] for each in own_services(services).values()}
    assert all((docker_folder.parent / path).is_file() for path in built.values())


def test_no_secret_has_a_default(
    services: dict[str, dict[str, Any]],
    compose_references: list[tuple[str, str, str]],
) -> None:
    for name, operator, _ in compose_references:
        assert operator == ("?" if SECRET_NAME.search(name) else "-"), name
    required = {name for name, operator, _ in compose_references if operator == "?"}
    assert required == {
        "PREFECT_PASSWORD",
        "POSTGRES_PASSWORD",
        "REDIS_PASSWORD",
        "QDRANT_API_KEY",
        "S3_ACCESS_KEY_ID",
        "S3_SECRET_ACCESS_KEY",
    }


def test_the_example_environment_lists_every_variable_and_no_secret(
    docker_folder: Path, compose_references: list[tuple[str, str, str]]
) -> None:
    lines = (docker_folder / ".env.example").read_text().splitlines()
    listed = {
        name.lstrip("#"): value
        for name, _, value in (line.partition("=") for line in lines)
        if re.fullmatch(r"#?[A-Z_0-9]+", name)
    }
    teacher = ("BASE_URL", "API_KEY", "API_VERSION")
    handed_on = {f"RAFTLINE_TEACHER_{name}" for name in teacher}
    assert set(listed) == {name for name, _, _ in compose_references} | handed_on
    assert not any(value for name, value in listed.items() if SECRET_NAME.search(name))


def test_git_ignores_the_file_with_the_secrets(docker_folder: Path) -> None:
    ignored = (docker_folder.parent / ".gitignore").read_text().splitlines()
    assert "docker/.env" in ignored


def test_every_port_is_open_on_loopback_only(services: dict[str, dict[str, Any]]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_state_behind_prefect_has_no_way_out(compose: dict[str, Any]) -> None:
    assert compose["networks"]["state"]["internal"] is True
    for name in ("postgres", "redis", "migrate", "server-services"):
        assert compose["services"][name]["networks"] == ["state"]


def test_nobody_runs_as_root_but_the_one_who_hands_over_a_volume(
    services: dict[str, dict[str, Any]],
) -> None:
    # Our own images and Qdrant's unprivileged one set their user themselves.
    users = {
        name: service.get("user")
        for name, service in services.items()
        if not OWN_IMAGE.match(service["image"]) and "unprivileged" not in service["image"]
    }
    assert users == {
        "postgres": "postgres",
        "redis": "redis",
        "s3": "10001:10001",
        "s3-volume": "root",
    }
    assert services["s3-volume"]["cap_add"] == ["CHOWN"]
    assert services["s3-volume"]["network_mode"] == "none"


def test_whoever_is_awaited_healthy_says_how_it_is(services: dict[str, dict[str, Any]]) -> None:
    for service in services.values():
        for name, wanted in service.get("depends_on", {}).items():
            awaited = services[name]
            if wanted["condition"] == "service_healthy":
                assert "test" in awaited["healthcheck"]
            else:
                assert awaited["restart"] == "on-failure:3", f"{name} must come to an end"


def test_every_volume_is_declared_and_used(compose: dict[str, Any]) -> None:
    mounted = {
        volume.partition(":")[0]
        for service in compose["services"].values()
        for volume in service.get("volumes", [])
        if isinstance(volume, str)
    }
    assert mounted == set(compose["volumes"])


def test_every_prefect_variable_is_one_that_prefect_reads(
    services: dict[str, dict[str, Any]], prefect_variables: set[str]
) -> None:
    given = {
        name
        for service in own_services(services).values()
        for name in service.get("environment", {})
        if name.startswith("PREFECT_")
    }
    assert given
    assert given - prefect_variables == set()


def test_prefect_understands_the_values(
    services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import Settings

    environment = services["server"]["environment"]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    server = Settings().server
    assert server.database.driver == "postgresql+asyncpg"
    assert server.database.migrate_on_start is False
    assert server.ui.api_url == "http://127.0.0.1:4200/api"
    for module in (
        server.events.messaging_broker,
        server.events.messaging_cache,
        server.events.causal_ordering,
        server.concurrency.lease_storage,
    ):
        assert find_spec(module) is not None


def test_clients_sign_in_as_the_server_expects(services: dict[str, dict[str, Any]]) -> None:
    expected = services["server"]["environment"]["PREFECT_SERVER_API_AUTH_STRING"]
    for name in ("register", "worker-cpu", "worker-gpu"):
        assert services[name]["environment"]["PREFECT_API_AUTH_STRING"] == expected


def test_our_settings_read_every_raftline_variable(
    services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline_lib.settings import Settings

    environment = {
        name: value
        for name, value in services["worker-cpu"]["environment"].items()
        if name.startswith("RAFTLINE_")
    }
    fields = {f"RAFTLINE_{name.upper()}" for name in Settings.model_fields}
    assert set(environment) - fields == set()
    for name, value in environment.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.s3_endpoint_url == "http://s3:7070"
    assert settings.qdrant_url == "http://qdrant:6333"
    assert settings.teacher_base_url is None
    assert settings.s3_secret_access_key is not None
    region = services["s3"]["environment"]["VGW_REGION"]
    assert settings.s3_region == region, "the gateway refuses requests signed for another region"


def test_pools_in_commands_are_those_that_get_registered(
    services: dict[str, dict[str, Any]],
) -> None:
    from deployments.deploy import WORK_POOLS

    workers = {name: each["command"] for name, each in services.items() if "worker" in name}
    pools = [command[command.index("--pool") + 1] for command in workers.values()]
    assert sorted(pools) == sorted(WORK_POOLS)


def test_the_registered_root_is_where_the_image_has_the_code(
    services: dict[str, dict[str, Any]], dockerfiles: dict[str, list[Any]]
) -> None:
    command = services["register"]["command"]
    assert command[:3] == ["python", "-m", "deployments.deploy"]
    assert find_spec(command[2]) is not None
    folders = [step.rest for step in dockerfiles["Dockerfile.worker-cpu"] if step.name == "WORKDIR"]
    assert set(folders) == {command[3]}


@pytest.mark.parametrize(
    "service", ["migrate", "server", "server-services", "worker-cpu", "worker-gpu"]
)
def test_prefect_knows_the_command_and_its_options(
    services: dict[str, dict[str, Any]], service: str, tmp_path: Path
) -> None:
    command = services[service]["command"]
    options = [word for word in command if word.startswith("--")]
    subcommand = [
        word
        for word, before in zip(command, ["", *command], strict=False)
        if not word.startswith("--") and not before.startswith("--")
    ]
    # Prefect's help is cut to the terminal's width.
    shown = run([*subcommand, "--help"], PREFECT_HOME=str(tmp_path), COLUMNS="200")
    assert shown.returncode == 0, shown.stderr
    missing = [option for option in options if not re.search(rf"{option}\b", shown.stdout)]
    assert missing == []


class _Answers(BaseHTTPRequestHandler):
    """Answers every GET with the server's `status`."""

    def do_GET(self) -> None:
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def http_server() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), _Answers)
    with serving(server):
        yield server


@pytest.mark.parametrize(("service", "port"), [("server", 4200), ("qdrant", 6333), ("s3", 7070)])
@pytest.mark.parametrize(("status", "is_healthy"), [(200, True), (503, False)])
def test_the_health_check_tells_well_from_ill(
    services: dict[str, dict[str, Any]],
    http_server: HTTPServer,
    service: str,
    port: int,
    status: int,
    is_healthy: bool,
) -> None:
    kind, *command = services[service]["healthcheck"]["test"]
    assert kind == "CMD"
    if command[0] == "wget" and not Path("/usr/bin/wget").exists():
        pytest.skip("no wget here; the gateway's image has one")
    http_server.status = status  # type: ignore[attr-defined]
    here = str(http_server.server_port)
    checked = run([word.replace(str(port), here) for word in command])
    assert (checked.returncode == 0) is is_healthy, checked.stderr
