"""The S3 server does what the artifact store relies on."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from deployments.stack import s3
from deployments.stack.s3 import RcloneServer, answers_to
from pipeline_lib.errors import StackError


def _client(server: RcloneServer) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3",
        endpoint_url=server.endpoint_url,
        aws_access_key_id=server.access_key_id,
        aws_secret_access_key=server.secret_access_key,
        region_name="us-east-1",
        config=Config(retries={"max_attempts": 1}),
    )


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    return f"raw-{tmp_path.name}"


def test_writes_overwrites_listings_and_deletes_are_seen_at_once(s3_server, prefix: str) -> None:
    client, bucket = _client(s3_server), s3_server.bucket
    for number in range(20):
        key = f"{prefix}/folder/{number}"
        for body in (b"first", b"second, longer", b"3"):
            client.put_object(Bucket=bucket, Key=key, Body=body)
            assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == body
        listed = client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")["Contents"]
        assert {each["Key"]: each["Size"] for each in listed}[key] == 1
    for number in range(20):
        client.delete_object(Bucket=bucket, Key=f"{prefix}/folder/{number}")
    assert "Contents" not in client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")


def test_multipart_uploads_are_whole(s3_server, prefix: str, tmp_path: Path) -> None:
    from boto3.s3.transfer import TransferConfig

    source = tmp_path / "source"
    source.write_bytes(os.urandom(21_000_001))
    client, key = _client(s3_server), f"{prefix}/large"
    parts = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20)
    client.upload_file(str(source), s3_server.bucket, key, Config=parts)
    body = client.get_object(Bucket=s3_server.bucket, Key=key)["Body"].read()
    assert body == source.read_bytes()


def test_an_emptied_bucket_stays(tmp_path: Path) -> None:
    with RcloneServer(tmp_path / "s3") as server:
        client = _client(server)
        client.put_object(Bucket=server.bucket, Key="only", Body=b"x")
        client.delete_object(Bucket=server.bucket, Key="only")
        names = [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
        assert names == [server.bucket]


def test_writers_under_one_prefix_do_not_disturb_each_other(s3_server, prefix: str) -> None:
    # The server drops a folder with its last object, and may then miss what another writer puts
    # into it in that moment (docs/footguns.md): here, as for artifacts, one object always stays.
    _client(s3_server).put_object(Bucket=s3_server.bucket, Key=f"{prefix}/shared/stays", Body=b"x")
    errors: list[Exception] = []

    def work(writer: int) -> None:
        client = _client(s3_server)
        try:
            for number in range(15):
                key = f"{prefix}/shared/{writer}-{number}"
                client.put_object(Bucket=s3_server.bucket, Key=key, Body=key.encode())
                answer = client.get_object(Bucket=s3_server.bucket, Key=key)
                assert answer["Body"].read() == key.encode()
                client.delete_object(Bucket=s3_server.bucket, Key=key)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_only_the_generated_credentials_are_accepted(s3_server) -> None:
    url = s3_server.endpoint_url
    assert answers_to(url, s3_server.access_key_id, s3_server.secret_access_key)
    assert not answers_to(url, s3_server.access_key_id, "x" * 40)
    assert not answers_to(url, "X" * 20, s3_server.secret_access_key)


def test_secrets_are_not_on_the_command_line(s3_server) -> None:
    command = " ".join(psutil.Process(s3_server.pid).cmdline())
    assert s3_server.secret_access_key not in command
    assert s3_server.access_key_id not in command


def test_the_users_own_rclone_settings_stay_out(monkeypatch) -> None:
    monkeypatch.setenv("RCLONE_S3_NO_CHECK_BUCKET", "true")
    environment = s3.serve_environment("key", "secret")
    assert [name for name in environment if name.startswith("RCLONE_")] == ["RCLONE_AUTH_KEY"]


def test_objects_outlive_the_server(tmp_path: Path) -> None:
    with RcloneServer(tmp_path / "s3") as first:
        _client(first).put_object(Bucket=first.bucket, Key="a/b", Body=b"kept")
        first.kill()
    with RcloneServer(tmp_path / "s3") as second:
        answer = _client(second).get_object(Bucket=second.bucket, Key="a/b")
        assert answer["Body"].read() == b"kept"


def test_what_a_killed_server_left_unfinished_is_deleted(tmp_path: Path) -> None:
    with RcloneServer(tmp_path / "s3") as first:
        client, key = _client(first), {"Bucket": first.bucket, "Key": "a/b"}
        upload = client.create_multipart_upload(**key)["UploadId"]
        client.upload_part(**key, UploadId=upload, PartNumber=1, Body=b"x" * 5_242_880)
        first.kill()
    leftovers = [path for path in (tmp_path / "s3").rglob("*") if path.is_file()]
    assert len(leftovers) == 1
    with RcloneServer(tmp_path / "s3"):
        assert not leftovers[0].exists()


def test_a_server_that_cannot_start_says_where_its_log_is(tmp_path: Path, s3_server) -> None:
    with pytest.raises(StackError, match="before it answered") as caught:
        RcloneServer(tmp_path / "s3", port=s3_server.port).start()
    assert str(tmp_path / "s3.log") in str(caught.value)
    assert "address already in use" in (tmp_path / "s3.log").read_text()
