"""Damaged containers: no crash, and the file ends as inputs that can be read or as drops."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_lib.config.corpus import IngestLimits, RecordColumns
from pipeline_lib.corpus.schema import Drop
from pipeline_lib.corpus.sources.base import SourceInput
from pipeline_lib.corpus.sources.cache import LocalCache
from pipeline_lib.corpus.sources.examining import Examiner
from pipeline_lib.corpus.sources.files import LocalFile
from pipeline_lib.corpus.sources.locators import FileLocator

Read = Callable[[SourceInput], bytes]

NUM_MUTANTS = 60
TEXTS = [f"text number {n} " * 9 for n in range(40)]


def make_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, text in enumerate(TEXTS[:8]):
            archive.writestr(f"d/{number}.md", text)
    return buffer.getvalue()


def make_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for number, text in enumerate(TEXTS[:4]):
            info = tarfile.TarInfo(f"d/{number}-{'ü' * 60 * number}.md")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


def make_parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": TEXTS, "n": range(40)}), sink, row_group_size=10)
    return sink.getvalue()


def make_arrow() -> bytes:
    sink, table = io.BytesIO(), pa.table({"text": TEXTS})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=10)
    return sink.getvalue()


def make_feather() -> bytes:
    sink, table = io.BytesIO(), pa.table({"text": TEXTS})
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=10)
    return sink.getvalue()


MAKERS: dict[str, Callable[[], bytes]] = {
    "a.zip": make_zip,
    "a.tar": make_tar,
    "a.tar.gz": lambda: gzip.compress(make_tar(), mtime=0),
    "a.tar.bz2": lambda: bz2.compress(make_tar()),
    "a.tar.xz": lambda: lzma.compress(make_tar()),
    "a.jsonl": lambda: b"".join(b'{"text": "%d"}\n' % n for n in range(99)),
    "a.parquet": make_parquet,
    "a.arrow": make_arrow,
    "a.feather": make_feather,
}


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Cut off, overwritten here and there, or with a piece repeated or left out."""
    changed = bytearray(data)
    for _ in range(draw.randrange(1, 6)):
        at = draw.randrange(len(changed))
        match draw.randrange(4):
            case 0:
                changed[at] = draw.randrange(256)
            case 1:
                changed[at : at + 4] = draw.randbytes(4)
            case 2:
                del changed[at : at + draw.randrange(1, 64)]
            case 3:
                changed[at:at] = changed[at : at + 64]
        changed = changed or bytearray(b"x")
    return bytes(changed[: draw.randrange(1, len(changed) + 1)]) if draw.random() < 0.2 else changed


@pytest.mark.parametrize("name", MAKERS)
def test_mutants_of_containers_are_accounted_for(read: Read, tmp_path: Path, name: str) -> None:
    whole, draw = MAKERS[name](), random.Random(name)
    limits = IngestLimits(max_file_bytes=10_000_000, max_unpacked_bytes=20_000_000)
    examiner = Examiner(LocalCache(tmp_path / "cache"), limits, RecordColumns())
    for number in range(NUM_MUTANTS):
        path = tmp_path / f"{number}-{name}"
        path.write_bytes(mutated(whole, draw))
        file = LocalFile(uri=f"file:{name}", name=name, path=path, locator=FileLocator.of(path))
        found = examiner.examine(file)
        assert found
        for item in found:
            if isinstance(item, Drop):
                assert item.reason
                assert item.detail
            else:
                assert len(read(item)) == item.size_bytes
