"""What opening an archive or a table may do to its process costs that file and no more."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus.sources.base import SourceInput, SourceScan
from pipeline_lib.corpus.sources.cache import LocalCache
from pipeline_lib.corpus.sources.files import LocalFile
from pipeline_lib.corpus.sources.isolation import IsolatedExaminer
from pipeline_lib.corpus.sources.locators import FileLocator

Scan = Callable[..., SourceScan]
Read = Callable[[SourceInput], bytes]


def test_the_result_is_the_same_in_another_process(scan: Scan, read: Read, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.md").write_text("a")
    with zipfile.ZipFile(docs / "b.zip", "w") as archive:
        archive.writestr("b.md", "b")
        archive.writestr("../evil.md", "x")
    with tarfile.open(docs / "c.tgz", "w:gz") as packed:
        packed.add(docs / "a.md", "c.md")
    (docs / "d.zip").write_bytes(b"PK\x03\x04 damaged")
    pq.write_table(pa.table({"text": ["e"]}), docs / "e.parquet")
    alone, together = scan(docs, isolate=True), scan(docs)
    assert alone == together
    assert [read(item) for item in alone.inputs] == [b"a", b"b", b"a", b'{"text": "e"}\n']
    assert len(alone.drops) == 2


def huge_header() -> bytes:
    """A tar archive whose header claims, and has, 300 MB: `tarfile` reads it at once."""
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 300_000_000
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(info.size)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [({"max_memory_bytes": 100_000_000}, "out_of_memory"), ({"max_seconds": 0.001}, "timed_out")],
)
def test_an_archive_that_takes_too_much_is_a_drop_and_is_tried_again_next_time(
    scan: Scan, tmp_path: Path, limits: dict[str, float], reason: str
) -> None:
    (tmp_path / "a.tar").write_bytes(huge_header())
    (tmp_path / "b.md").write_text("b")
    for _ in range(2):
        result = scan(tmp_path / "a.tar", tmp_path / "b.md", isolate=True, limits=limits)
        assert [item.uri for item in result.inputs] == ["file:b.md"]
        assert [drop.reason for drop in result.drops] == [reason]


def test_a_copy_is_gone_also_when_the_process_dies(tmp_path: Path) -> None:
    config = IngestConfig.model_validate({"limits": {"max_seconds": 0.0001}})
    copy = tmp_path / "copy"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.md"))
    copy.write_bytes(gzip.compress(buffer.getvalue()))
    file = LocalFile(
        uri="s3://b/a.tgz", name="a.tgz", path=copy, locator=FileLocator.of(copy), sha256="0" * 64
    )
    with IsolatedExaminer(LocalCache(tmp_path / "cache"), config) as examiner:
        (drop,) = examiner.examine_copy(file)
    assert getattr(drop, "reason", "") == "timed_out"
    assert not copy.exists()
