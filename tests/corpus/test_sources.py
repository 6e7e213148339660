"""Which inputs a source holds, what they are called, and when the digest changes."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from pipeline_lib.config import SAMPLE_SOURCE
from pipeline_lib.corpus.sources import SourceScan, scan_sources
from pipeline_lib.errors import InputError


def scan(*sources: object, max_file_bytes: int = 1000) -> SourceScan:
    return scan_sources([str(source) for source in sources], max_file_bytes=max_file_bytes)


def write(path: Path, content: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def uris(result: SourceScan) -> list[str]:
    return [item.source_uri for item in result.inputs]


def drops(result: SourceScan) -> dict[str, str]:
    return {drop.source_uri: drop.reason for drop in result.drops}


def test_a_folder_is_read_recursively_in_order_of_uri(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/b/c.rst", "A.html", "c.jsonl"):
        write(tmp_path / "docs" / name)
    assert uris(scan(tmp_path / "docs")) == [
        "file:docs/A.html",
        "file:docs/a/b/c.rst",
        "file:docs/a/z.md",
        "file:docs/b.txt",
        "file:docs/c.jsonl",
    ]


def test_a_file_is_called_by_its_name_and_typed_by_its_suffix_in_any_case(tmp_path: Path) -> None:
    (item,) = scan(write(tmp_path / "Notes.MD", "# Hi")).inputs
    assert (item.source_uri, item.media_type) == ("file:Notes.MD", "text/markdown")
    assert item.read() == b"# Hi"


def test_moving_the_folder_changes_neither_uris_nor_digest(tmp_path: Path) -> None:
    write(tmp_path / "here" / "docs" / "a" / "x.txt")
    before = scan(tmp_path / "here" / "docs")
    shutil.move(tmp_path / "here", tmp_path / "there")
    after = scan(tmp_path / "there" / "docs")
    assert uris(after) == uris(before) == ["file:docs/a/x.txt"]
    assert after.digest == before.digest


def test_dot_as_source_is_called_like_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "docs" / "x.txt")
    (tmp_path / "docs" / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "docs")
    assert uris(scan(".")) == ["file:docs/x.txt"]
    monkeypatch.chdir(tmp_path / "docs" / "sub")
    assert uris(scan("..")) == ["file:docs/x.txt"]


def test_hidden_entries_are_counted_once_each_and_not_descended(tmp_path: Path) -> None:
    write(tmp_path / "docs" / "x.txt")
    write(tmp_path / "docs" / ".DS_Store")
    write(tmp_path / "docs" / ".git" / "config.txt")
    write(tmp_path / "docs" / ".git" / "HEAD.txt")
    result = scan(tmp_path / "docs")
    assert uris(result) == ["file:docs/x.txt"]
    assert drops(result) == {"file:docs/.DS_Store": "hidden", "file:docs/.git": "hidden"}


def test_a_hidden_folder_named_as_source_is_read(tmp_path: Path) -> None:
    write(tmp_path / ".notes" / "x.txt")
    assert uris(scan(tmp_path / ".notes")) == ["file:.notes/x.txt"]


@pytest.mark.parametrize("name", ["picture.png", "README", "archive.tar.gz"])
def test_unsupported_types_are_dropped_with_the_supported_ones_named(
    tmp_path: Path, name: str
) -> None:
    (drop,) = scan(write(tmp_path / name)).drops
    assert drop.reason == "unsupported_type"
    assert ".md" in drop.detail
    assert ".jsonl" in drop.detail


def test_files_over_the_limit_are_dropped_and_files_at_the_limit_are_not(tmp_path: Path) -> None:
    write(tmp_path / "docs" / "at.txt", "x" * 100)
    write(tmp_path / "docs" / "over.txt", "x" * 101)
    result = scan(tmp_path / "docs", max_file_bytes=100)
    assert uris(result) == ["file:docs/at.txt"]
    assert drops(result) == {"file:docs/over.txt": "too_large"}
    assert result.drops[0].detail == "101 bytes; ingest.max_file_bytes is 100"


def test_links_to_files_are_read_and_links_to_folders_are_not(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside" / "x.txt", "linked")
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "link.txt").symlink_to(outside)
    (docs / "folder").symlink_to(outside.parent)
    (docs / "loop").symlink_to(docs)
    (docs / "broken.txt").symlink_to(tmp_path / "nowhere.txt")
    result = scan(docs)
    assert [item.read() for item in result.inputs] == [b"linked"]
    assert drops(result) == {
        "file:docs/folder": "folder_link",
        "file:docs/loop": "folder_link",
        "file:docs/broken.txt": "unreadable",
    }


def test_pipes_and_sockets_are_dropped_without_being_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    os.mkfifo(docs / "pipe.txt")  # opening it would wait for a writer for ever
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(docs)  # socket paths are limited to about 100 bytes
        server.bind("s.txt")
        result = scan(docs)
    assert drops(result) == {"file:docs/pipe.txt": "not_a_file", "file:docs/s.txt": "not_a_file"}


def test_file_names_that_are_not_utf8_get_a_readable_uri(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (Path(os.fsdecode(os.fsencode(docs) + b"/caf\xe9.txt"))).write_text("x")
    assert uris(scan(docs)) == ["file:docs/caf\\xe9.txt"]


def test_decomposed_file_names_are_composed(tmp_path: Path) -> None:
    write(tmp_path / "cafe\u0301.txt")
    assert uris(scan(tmp_path / "cafe\u0301.txt")) == ["file:caf\u00e9.txt"]


def test_the_sample_is_pythons_language_reference() -> None:
    result = scan(SAMPLE_SOURCE)
    assert len(result.inputs) == len(topics) > 70
    page = result.inputs[0]
    assert page.source_uri == "sample:python-language-reference/assert"
    assert page.read().startswith(b'The "assert" statement\n')


def test_a_missing_path_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent-docs.*No such file") as caught:
        scan(tmp_path / "absent-docs")
    assert "worker" in str(caught.value.hint)


@pytest.mark.parametrize("source", ["s3://bucket/docs", "https://example.org/a.html"])
def test_an_unknown_scheme_is_an_error_that_names_it(source: str) -> None:
    with pytest.raises(InputError) as caught:
        scan(source)
    assert repr(source) in caught.value.message
    assert repr(source.partition(":")[0]) in caught.value.message


def test_an_unknown_sample_is_an_error_that_names_the_known_one() -> None:
    with pytest.raises(InputError, match="sample:tax-law") as caught:
        scan("sample:tax-law")
    assert SAMPLE_SOURCE in str(caught.value)


def test_a_file_whose_name_looks_like_a_scheme_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "notes:2024.txt")
    monkeypatch.chdir(tmp_path)
    assert uris(scan("notes:2024.txt")) == ["file:notes:2024.txt"]


def test_folders_of_one_name_may_not_give_one_uri_to_two_files(tmp_path: Path) -> None:
    first = write(tmp_path / "v1" / "docs" / "x.txt")
    second = write(tmp_path / "v2" / "docs" / "x.txt")
    with pytest.raises(InputError, match=r"file:docs/x\.txt") as caught:
        scan(first.parent, second.parent)
    assert str(first) in caught.value.message
    assert str(second) in caught.value.message
    second.rename(second.with_name("y.txt"))
    assert uris(scan(first.parent, second.parent)) == ["file:docs/x.txt", "file:docs/y.txt"]


def test_the_same_source_twice_is_an_error() -> None:
    with pytest.raises(InputError, match="Name each source once"):
        scan(SAMPLE_SOURCE, SAMPLE_SOURCE)


def test_the_digest_follows_contents_names_and_order(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    write(docs / "x.txt", "one")
    write(docs / "y.txt", "two")
    digests = [scan(docs).digest, scan(docs).digest]
    assert digests[0] == digests[1]
    write(docs / "y.txt", "TWO")
    digests.append(scan(docs).digest)
    (docs / "y.txt").rename(docs / "z.txt")
    digests.append(scan(docs).digest)
    write(docs / "picture.png")
    digests.append(scan(docs).digest)
    assert len(set(digests)) == 4
    other = write(tmp_path / "other.txt")
    assert scan(docs, other).digest != scan(other, docs).digest


def test_hidden_entries_leave_the_digest_alone(tmp_path: Path) -> None:
    write(tmp_path / "docs" / "x.txt")
    before = scan(tmp_path / "docs").digest
    write(tmp_path / "docs" / ".DS_Store", "window positions")
    assert scan(tmp_path / "docs").digest == before


@pytest.mark.parametrize("change", ["edit", "delete"])
def test_an_input_that_changed_since_the_scan_is_refused(tmp_path: Path, change: str) -> None:
    path = write(tmp_path / "x.txt", "before")
    (item,) = scan(path).inputs
    if change == "edit":
        path.write_text("after")
    else:
        path.unlink()
    with pytest.raises(InputError, match=r"file:x\.txt changed while"):
        item.read()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files_and_folders_are_dropped(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    write(docs / "x.txt").chmod(0)
    write(docs / "locked" / "y.txt").parent.chmod(0)
    try:
        assert drops(scan(docs)) == {
            "file:docs/x.txt": "unreadable",
            "file:docs/locked": "unreadable",
        }
    finally:
        (docs / "locked").chmod(0o700)
