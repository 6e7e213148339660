"""Members of archives are inputs; what is unsafe, too much or damaged is a drop."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline_lib.artifacts.object_store import ObjectStore
from pipeline_lib.corpus.sources.base import SourceInput, SourceScan
from pipeline_lib.corpus.sources.reading import InputReader
from pipeline_lib.errors import InputError
from pipeline_lib.settings import Settings

Scan = Callable[..., SourceScan]
Read = Callable[[SourceInput], bytes]

COMPRESS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(members: dict[str, bytes], *special: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in special:
            archive.addfile(info)
    return buffer.getvalue()


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def contents(result: SourceScan, read: Read) -> dict[str, bytes]:
    return {item.uri: read(item) for item in result.inputs}


def reasons(result: SourceScan) -> dict[str, str]:
    return {drop.source_uri: drop.reason for drop in result.drops}


MEMBERS = {"guide/a.md": b"# A", "b.txt": b"b" * 300_000}


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_members_are_inputs_that_any_machine_can_read(
    scan: Scan, read: Read, read_elsewhere: Read, tmp_path: Path, kind: str
) -> None:
    data = zipped(MEMBERS) if kind == "zip" else tarred(MEMBERS)
    if kind.startswith("tar."):
        data = COMPRESS[kind.removeprefix("tar.")](data)
    result = scan(put(tmp_path / f"docs.{kind}", data))
    expected = {f"file:docs.{kind}!/{name}": data for name, data in MEMBERS.items()}
    assert contents(result, read) == expected
    assert contents(result, read_elsewhere) == expected
    assert result.drops == ()


def test_an_archive_is_known_by_its_content_whatever_it_is_called(
    scan: Scan, tmp_path: Path
) -> None:
    (item,) = scan(put(tmp_path / "download", tarred({"a.md": b"a"}))).inputs
    assert item.uri == "file:download!/a.md"


@pytest.mark.parametrize(
    ("name", "member"),
    [("report.docx", "word/document.xml"), ("noname", "[Content_Types].xml"), ("e", "mimetype")],
)
def test_office_documents_and_e_books_are_documents(
    scan: Scan, tmp_path: Path, name: str, member: str
) -> None:
    (item,) = scan(put(tmp_path / name, zipped({"x": b"x", member: b"..."}))).inputs
    assert item.uri == f"file:{name}"


def test_a_document_inside_an_archive_stays_whole(scan: Scan, read: Read, tmp_path: Path) -> None:
    document = zipped({"[Content_Types].xml": b"...", "word/document.xml": b"..."})
    result = scan(put(tmp_path / "docs.zip", zipped({"report": document})))
    assert contents(result, read) == {"file:docs.zip!/report": document}


def test_a_compressed_file_is_read_as_what_it_holds(
    scan: Scan, read: Read, read_elsewhere: Read, tmp_path: Path
) -> None:
    for suffix, compress in COMPRESS.items():
        result = scan(put(tmp_path / f"a.md.{suffix}", compress(b"# A")))
        expected = {f"file:a.md.{suffix}!/a.md": b"# A"}
        assert contents(result, read) == contents(result, read_elsewhere) == expected


def test_compressed_data_in_several_streams_is_read_to_its_end(
    scan: Scan, read: Read, tmp_path: Path
) -> None:
    for suffix, compress in COMPRESS.items():
        result = scan(put(tmp_path / f"a.md.{suffix}", compress(b"one ") + compress(b"two")))
        assert list(contents(result, read).values()) == [b"one two"]


def test_archives_in_archives_are_opened_as_deep_as_allowed(
    scan: Scan, read: Read, read_elsewhere: Read, tmp_path: Path
) -> None:
    deepest = zipped({"c.md": b"c"})
    inner = gzip.compress(tarred({"b.md": b"b", "deepest.zip": deepest}))
    path = put(tmp_path / "outer.zip", zipped({"a.md": b"a", "inner.tgz": inner}))

    result = scan(path, limits={"max_nesting": 1})
    assert list(contents(result, read).values()) == [b"a", b"b"]
    assert reasons(result) == {"file:outer.zip!/inner.tgz!/deepest.zip": "too_nested"}

    result = scan(path, limits={"max_nesting": 2})
    expected = {
        "file:outer.zip!/a.md": b"a",
        "file:outer.zip!/inner.tgz!/b.md": b"b",
        "file:outer.zip!/inner.tgz!/deepest.zip!/c.md": b"c",
    }
    assert contents(result, read) == contents(result, read_elsewhere) == expected


@pytest.mark.parametrize(
    "name", ["../evil.md", "a/../../evil.md", "/etc/evil.md", "C:\\evil.md", "..\\evil.md"]
)
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_name_that_leads_out_of_the_archive_is_refused(
    scan: Scan, tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes], name: str
) -> None:
    before = sorted(tmp_path.parent.rglob("evil.md"))
    result = scan(put(tmp_path / "docs.x", pack({name: b"x", "good.md": b"x"})))
    assert [item.uri for item in result.inputs] == ["file:docs.x!/good.md"]
    (drop,) = result.drops
    assert drop.reason == "unsafe_path"
    assert sorted(tmp_path.parent.rglob("evil.md")) == before


def test_links_and_devices_in_archives_are_refused(scan: Scan, tmp_path: Path) -> None:
    link, device = tarfile.TarInfo("passwd.txt"), tarfile.TarInfo("null")
    link.type, link.linkname, device.type = tarfile.SYMTYPE, "/etc/passwd", tarfile.CHRTYPE
    result = scan(put(tmp_path / "a.tar", tarred({}, link, device)))
    assert set(reasons(result).values()) == {"unsafe_path"}

    info = zipfile.ZipInfo("passwd.txt")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    assert reasons(scan(tmp_path / "a.zip")) == {"file:a.zip!/passwd.txt": "unsafe_path"}


def test_hidden_members_are_counted_once_per_hidden_folder(scan: Scan, tmp_path: Path) -> None:
    names = ["a.md", ".git/x", ".git/y", "__MACOSX/._a.md", "sub/.env"]
    result = scan(put(tmp_path / "d.zip", zipped(dict.fromkeys(names, b"x"))))
    assert len(result.inputs) == 1
    assert reasons(result) == {
        "file:d.zip!/.git": "hidden",
        "file:d.zip!/__MACOSX": "hidden",
        "file:d.zip!/sub/.env": "hidden",
    }


def test_of_members_with_one_name_the_first_is_kept(scan: Scan, read: Read, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "d.tar", "w") as archive:
        for data in (b"one", b"two"):
            info = tarfile.TarInfo("./a.md")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    result = scan(tmp_path / "d.tar")
    assert contents(result, read) == {"file:d.tar!/a.md": b"one"}
    assert reasons(result) == {"file:d.tar!/a.md": "duplicate_uri"}


def test_a_member_that_is_too_large_is_dropped_and_the_others_are_kept(
    scan: Scan, tmp_path: Path
) -> None:
    path = put(tmp_path / "d.zip", zipped({"big.txt": b"x" * 101, "small.txt": b"x" * 100}))
    result = scan(path, limits={"max_file_bytes": 100})
    assert [item.uri for item in result.inputs] == ["file:d.zip!/small.txt"]
    assert reasons(result) == {"file:d.zip!/big.txt": "too_large"}


def test_an_archive_without_files_is_a_drop(scan: Scan, tmp_path: Path) -> None:
    assert reasons(scan(put(tmp_path / "d.zip", zipped({})))) == {"file:d.zip": "empty"}


def bomb(kind: str) -> bytes:
    """60 MB of zeros in 60 kB, or in far less."""
    zeros = bytes(60_000_000)
    if kind == "zip":
        return zipped({"zeros.txt": zeros})
    if kind == "nested":
        return zipped({"inner.zip": zipped({"zeros.txt": zeros})})
    return COMPRESS[kind](zeros)


@pytest.mark.parametrize("kind", ["zip", "nested", "gz", "bz2", "xz"])
def test_a_bomb_is_refused_by_its_ratio(
    scan: Scan, tmp_path: Path, kind: str, peak_memory: Callable[[], int]
) -> None:
    path = put(tmp_path / f"bomb.{kind}", bomb(kind))
    before = peak_memory()
    result = scan(path, limits={"max_file_bytes": 100_000_000})
    assert result.inputs == ()
    assert list(reasons(result).values()) == ["archive_bomb"]
    assert peak_memory() - before < 50_000_000


def noise(count: int) -> bytes:
    import random

    return random.Random(7).randbytes(count)


@pytest.mark.parametrize("kind", ["zip", "gz", "nested"])
def test_an_archive_that_unpacks_to_too_much_is_refused_as_a_whole(
    scan: Scan, tmp_path: Path, kind: str
) -> None:
    data = {
        "zip": lambda: zipped({"a": noise(600), "b": noise(600)}),
        "gz": lambda: gzip.compress(tarred({"a": noise(1200)})),
        "nested": lambda: zipped({"1": zipped({"a": noise(300)}), "2": zipped({"b": noise(300)})}),
    }[kind]()
    result = scan(put(tmp_path / "d", data), limits={"max_unpacked_bytes": 1000})
    assert result.inputs == ()
    assert reasons(result) == {"file:d": "archive_bomb"}
    assert "max_unpacked_bytes" in result.drops[0].remedy


def test_a_size_that_the_archive_understates_does_not_get_past_the_limit(
    scan: Scan, tmp_path: Path
) -> None:
    data = bytearray(zipped({"a.txt": b"x" * 5000}))
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = struct.pack("<L", 10)  # uncompressed size in the directory
    result = scan(put(tmp_path / "d.zip", bytes(data)), limits={"max_file_bytes": 1000})
    assert result.inputs == ()
    assert reasons(result) == {"file:d.zip!/a.txt": "broken_file"}


def test_an_archive_with_too_many_members_is_refused(scan: Scan, tmp_path: Path) -> None:
    many = {f"{number}.txt": b"x" for number in range(4)}
    for data in (zipped(many), tarred(many), zipped({"in.zip": zipped(many)})):
        result = scan(put(tmp_path / "d", data), limits={"max_members": 3})
        assert result.inputs == ()
        assert list(reasons(result).values()) == ["too_many_members"]


def test_a_directory_that_would_fill_memory_is_not_read(scan: Scan, tmp_path: Path) -> None:
    data = bytearray(zipped({"a.txt": b"x"}))
    end = data.rindex(b"PK\x05\x06")
    data[end + 12 : end + 16] = struct.pack("<L", 1 << 31)
    assert reasons(scan(put(tmp_path / "d.zip", bytes(data)))) == {"file:d.zip": "too_many_members"}


def test_a_member_behind_a_password_is_a_drop(scan: Scan, tmp_path: Path) -> None:
    data = bytearray(zipped({"secret.txt": b"x", "open.txt": b"x"}))
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + flags] |= 1
    result = scan(put(tmp_path / "d.zip", bytes(data)))
    assert [item.uri for item in result.inputs] == ["file:d.zip!/open.txt"]
    assert reasons(result) == {"file:d.zip!/secret.txt": "encrypted"}


@pytest.mark.parametrize("kind", ["zip", "tar", "gz", "bz2", "xz"])
def test_a_damaged_archive_is_a_drop(scan: Scan, tmp_path: Path, kind: str) -> None:
    whole = {
        "zip": lambda: zipped({"a.txt": noise(9000)}),
        "tar": lambda: tarred({"a.txt": noise(9000), "b.txt": noise(9000)}),
    }.get(kind, lambda: COMPRESS[kind](noise(9000)))()
    result = scan(put(tmp_path / f"d.{kind}", whole[: len(whole) // 3]))
    assert result.inputs == ()
    assert {drop.reason for drop in result.drops} == {"broken_file"}


def test_a_member_with_a_wrong_checksum_is_a_drop_and_the_others_are_kept(
    scan: Scan, tmp_path: Path
) -> None:
    data = bytearray(zipped({"a.txt": b"aaaa", "b.txt": b"bbbb"}, zipfile.ZIP_STORED))
    data[data.index(b"aaaa")] = ord("x")
    result = scan(put(tmp_path / "d.zip", bytes(data)))
    assert [item.uri for item in result.inputs] == ["file:d.zip!/b.txt"]
    assert reasons(result) == {"file:d.zip!/a.txt": "broken_file"}


def test_an_archive_that_changed_since_the_scan_never_gives_other_content(
    scan: Scan, read: Read, read_elsewhere: Read, tmp_path: Path
) -> None:
    path = put(tmp_path / "d.tar.gz", gzip.compress(tarred({"a.txt": b"before"})))
    (item,) = scan(path).inputs
    put(path, gzip.compress(tarred({"a.txt": b"behind"})))
    with pytest.raises(InputError, match="changed while"):
        read_elsewhere(item)
    assert read(item) == b"before"  # from the copy that was made at the scan


def test_an_archive_can_be_unpacked_before_its_members_are_read(
    scan: Scan, here: Settings, objects: ObjectStore, tmp_path: Path
) -> None:
    """So that the time it takes is not counted against the first of them."""
    data = zipped({"inner.tgz": gzip.compress(tarred({"a.md": b"a"})), "b.md": b"b"})
    items = scan(put(tmp_path / "outer.zip", data)).inputs
    elsewhere = here.model_copy(update={"home": tmp_path / "elsewhere"})
    reader = InputReader(elsewhere, objects)
    for item in items:
        reader.prepare(item)
    copies = sorted(path.name for path in (elsewhere.scratch / "sources").iterdir())
    assert [name for name in copies if name.endswith(".unpacked")]
    assert [reader.read(item) for item in items] == [b"a", b"b"]
    assert copies == sorted(path.name for path in (elsewhere.scratch / "sources").iterdir())
    reader.close()
