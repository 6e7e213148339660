"""What the stack remembers survives damage and is readable by its owner only."""

from __future__ import annotations

import stat
from pathlib import Path

from deployments.stack.ports import free_port, is_free
from deployments.stack.processes import ProcessRecord
from deployments.stack.registration import code_digest
from deployments.stack.s3 import generate_credentials
from deployments.stack.state import (
    ComponentRecord,
    StackState,
    read_environment,
    write_environment,
)
from pipeline_lib.settings import load_settings


def test_state_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    record = ComponentRecord(process=ProcessRecord(pid=7, created=1.5), address="http://x")
    state = StackState(ports={"s3": 1234}, components={"s3": record}, deployments=("a/b",))
    state.save(tmp_path)
    assert StackState.load(tmp_path) == state


def test_a_missing_or_damaged_state_is_an_empty_one(tmp_path: Path) -> None:
    assert StackState.load(tmp_path) == StackState()
    (tmp_path / "stack.json").write_text('{"ports": {"s3": ')
    assert StackState.load(tmp_path) == StackState()


def test_credentials_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    write_environment(tmp_path, {"RAFTLINE_S3_SECRET_ACCESS_KEY": "s"})
    write_environment(tmp_path, {"RAFTLINE_S3_SECRET_ACCESS_KEY": "s=s"})
    assert stat.S_IMODE((tmp_path / "stack.env").stat().st_mode) == 0o600
    assert read_environment(tmp_path) == {"RAFTLINE_S3_SECRET_ACCESS_KEY": "s=s"}


def test_settings_read_what_the_stack_wrote(tmp_path: Path, monkeypatch) -> None:
    for name in ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "BUCKET"):
        monkeypatch.delenv(f"RAFTLINE_S3_{name}", raising=False)
    access_key_id, secret = generate_credentials()
    write_environment(
        tmp_path,
        {
            "RAFTLINE_S3_ENDPOINT_URL": "http://127.0.0.1:1",
            "RAFTLINE_S3_ACCESS_KEY_ID": access_key_id,
            "RAFTLINE_S3_SECRET_ACCESS_KEY": secret,
        },
    )
    settings = load_settings(tmp_path)
    assert settings.s3_endpoint_url == "http://127.0.0.1:1"
    assert settings.s3_secret_access_key is not None
    assert settings.s3_secret_access_key.get_secret_value() == secret


def test_credentials_are_long_and_never_the_same() -> None:
    pairs = [generate_credentials() for _ in range(50)]
    assert all(len(key) == 20 and len(secret) == 40 for key, secret in pairs)
    assert len(set(pairs)) == 50


def test_a_port_is_free_until_somebody_listens() -> None:
    import socket

    port = free_port()
    assert is_free(port)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert not is_free(port)


def test_the_code_digest_changes_with_flows_and_deployments(tmp_path: Path) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "pipeline.py").write_text("a = 1")
    before = code_digest(tmp_path)
    assert code_digest(tmp_path) == before
    (tmp_path / "flows" / "pipeline.py").write_text("a = 2")
    assert code_digest(tmp_path) != before
    (tmp_path / "deployments").mkdir()
    middle = code_digest(tmp_path)
    (tmp_path / "deployments" / "prefect.yaml").write_text("name: raftline")
    assert code_digest(tmp_path) != middle
