"""Objects in buckets as sources, against a real S3 server."""

from __future__ import annotations

import io
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from pipeline_lib.artifacts.object_store import ObjectStore
from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus.sources.base import SourceInput, SourceScan
from pipeline_lib.corpus.sources.scan import scan_sources
from pipeline_lib.errors import InputError, StoreAccessError
from pipeline_lib.settings import Settings

Scan = Callable[..., SourceScan]
Read = Callable[[SourceInput], bytes]


@pytest.fixture
def bucket(store_settings: Settings) -> ObjectStore:
    """An empty bucket beside the artifact store's."""
    store = ObjectStore(store_settings.for_source_bucket(f"docs-{uuid.uuid4().hex[:12]}"))
    store.ensure_bucket()
    return store


def fill(bucket: ObjectStore, **contents: str) -> str:
    for key, content in contents.items():
        bucket.put_bytes(key, content.encode())
    return f"s3://{bucket.bucket}"


def keys(result: SourceScan) -> list[str]:
    return [item.uri.split("/", 3)[3] for item in result.inputs]


def test_the_objects_under_a_prefix_are_inputs_in_order_of_key(
    scan: Scan, read_elsewhere: Read, bucket: ObjectStore
) -> None:
    root = fill(bucket, **{"docs/b.md": "b", "docs/a/x.md": "x", "docs2/c.md": "c"})
    result = scan(f"{root}/docs")
    assert [item.uri for item in result.inputs] == [f"{root}/docs/a/x.md", f"{root}/docs/b.md"]
    assert [read_elsewhere(item) for item in result.inputs] == [b"x", b"b"]
    assert keys(scan(f"{root}/docs/")) == ["docs/a/x.md", "docs/b.md"]
    assert keys(scan(f"{root}/docs/b.md")) == ["docs/b.md"]
    assert len(scan(root).inputs) == 3


def test_wildcards_in_a_key_match_as_in_paths(scan: Scan, bucket: ObjectStore) -> None:
    root = fill(bucket, **{"d/a.md": "a", "d/b.txt": "b", "d/e/c.md": "c", "e.md": "e"})
    assert keys(scan(f"{root}/d/*.md")) == ["d/a.md"]
    assert keys(scan(f"{root}/**/*.md")) == ["d/a.md", "d/e/c.md", "e.md"]


def test_hidden_objects_and_folder_marks_are_no_inputs(scan: Scan, bucket: ObjectStore) -> None:
    root = fill(bucket, **{"d/a.md": "a", "d/.git/x": "x", "d/.git/y": "y", ".s/b.md": "b"})
    result = scan(f"{root}/d")
    assert keys(result) == ["d/a.md"]
    assert {d.source_uri: d.reason for d in result.drops} == {f"{root}/d/.git": "hidden"}
    assert keys(scan(f"{root}/.s")) == [".s/b.md"]


def test_only_objects_with_another_etag_are_read_again(scan: Scan, bucket: ObjectStore) -> None:
    root = fill(bucket, **{"a.md": "a", "b.md": "b"})
    first = scan(root)
    assert first.num_read == 2
    second = scan(root)
    assert (second.num_read, second.inputs, second.digest) == (0, first.inputs, first.digest)
    fill(bucket, **{"b.md": "B"})
    third = scan(root)
    assert third.num_read == 1
    assert third.digest != first.digest


def test_archives_and_records_in_a_bucket_are_opened(
    scan: Scan, read: Read, read_elsewhere: Read, bucket: ObjectStore
) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.md", "a")
        archive.writestr("r.jsonl", '{"text": "r"}\n')
    bucket.put_bytes("docs.zip", buffer.getvalue())
    result = scan(f"s3://{bucket.bucket}")
    uris = [item.uri.partition("!/")[2].partition("#")[0] for item in result.inputs]
    assert uris == ["a.md", "r.jsonl"]
    for reader in (read, read_elsewhere):
        assert [reader(item) for item in result.inputs] == [b"a", b'{"text": "r"}\n']


def test_an_object_that_is_too_large_is_refused_without_a_download(
    scan: Scan, bucket: ObjectStore, tmp_path: Path, peak_memory: Callable[[], int]
) -> None:
    path = tmp_path / "big.txt"
    with path.open("wb") as stream:
        stream.truncate(100_000_000)
    bucket.put_file("big.txt", path)
    before = peak_memory()
    result = scan(f"s3://{bucket.bucket}", limits={"max_file_bytes": 1_000_000})
    assert [drop.reason for drop in result.drops] == ["too_large"]
    assert peak_memory() - before < 20_000_000
    assert not list((tmp_path / "home").rglob("*.part"))


@pytest.mark.parametrize("change", ["edit", "delete"])
def test_an_object_that_changed_since_the_scan_is_refused(
    scan: Scan, read: Read, bucket: ObjectStore, change: str
) -> None:
    (item,) = scan(fill(bucket, **{"a.md": "before"})).inputs
    if change == "edit":
        fill(bucket, **{"a.md": "after!"})
    else:
        bucket.delete(["a.md"])
    with pytest.raises(InputError, match=r"a\.md changed while"):
        read(item)


@pytest.mark.parametrize("source", ["s3://", "s3://UPPER/docs", "s3:///docs"])
def test_what_is_no_bucket_is_an_error(scan: Scan, source: str) -> None:
    with pytest.raises(InputError, match="not an S3 address"):
        scan(source)


def test_an_empty_prefix_and_a_missing_bucket_are_errors(scan: Scan, bucket: ObjectStore) -> None:
    with pytest.raises(InputError, match="no objects under"):
        scan(f"s3://{bucket.bucket}/none")
    with pytest.raises(InputError, match="does not exist") as caught:
        scan(f"s3://{bucket.bucket}-gone/docs")
    assert "RAFTLINE_SOURCE_S3" in str(caught.value.hint)


def test_sources_have_credentials_of_their_own(
    here: Settings, objects: ObjectStore, bucket: ObjectStore
) -> None:
    root = fill(bucket, **{"a.md": "a"})
    config = IngestConfig(sources=(root,))
    own = here.model_copy(
        update={
            "source_s3_endpoint_url": here.s3_endpoint_url,
            "source_s3_access_key_id": SecretStr("somebody-else-entirely"),
            "source_s3_secret_access_key": SecretStr("with-another-secret"),
        }
    )
    with pytest.raises(StoreAccessError) as caught:
        scan_sources(own, objects, "own", config)
    assert "RAFTLINE_SOURCE_S3_ACCESS_KEY_ID" in str(caught.value.hint)
    assert "with-another-secret" not in str(caught.value)


def test_without_settings_of_their_own_sources_use_the_artifact_stores() -> None:
    settings = Settings(s3_endpoint_url="http://localhost:9", s3_region="x", s3_prefix="p")
    source = settings.for_source_bucket("docs")
    assert (source.s3_bucket, source.s3_prefix) == ("docs", "")
    assert (source.s3_endpoint_url, source.s3_region) == ("http://localhost:9", "x")


def test_source_credentials_without_an_endpoint_mean_aws() -> None:
    settings = Settings(
        s3_endpoint_url="http://localhost:9",
        s3_access_key_id=SecretStr("store"),
        source_s3_access_key_id=SecretStr("source"),
        source_s3_secret_access_key=SecretStr("secret"),
    )
    source = settings.for_source_bucket("docs")
    assert source.s3_endpoint_url is None
    assert source.s3_access_key_id == SecretStr("source")
