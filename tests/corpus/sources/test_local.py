"""Which inputs folders, files, globs and the sample hold, and what they are called."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

from pipeline_lib.config import SAMPLE_SOURCE
from pipeline_lib.corpus.sources.base import SourceInput, SourceScan
from pipeline_lib.errors import InputError

Scan = Callable[..., SourceScan]
Read = Callable[[SourceInput], bytes]


def write(path: Path, content: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def uris(result: SourceScan) -> list[str]:
    return [item.uri for item in result.inputs]


def reasons(result: SourceScan) -> dict[str, str]:
    return {drop.source_uri: drop.reason for drop in result.drops}


def test_a_folder_is_read_recursively_in_order_of_uri(scan: Scan, tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/b/c.rst", "A.html", "README"):
        write(tmp_path / "docs" / name)
    assert uris(scan(tmp_path / "docs")) == [
        "file:docs/A.html",
        "file:docs/README",
        "file:docs/a/b/c.rst",
        "file:docs/a/z.md",
        "file:docs/b.txt",
    ]


def test_a_file_is_called_by_its_name(scan: Scan, read: Read, tmp_path: Path) -> None:
    (item,) = scan(write(tmp_path / "Notes.MD", "# Hi")).inputs
    assert (item.uri, item.size_bytes) == ("file:Notes.MD", 4)
    assert read(item) == b"# Hi"


def test_moving_the_folder_changes_neither_uris_nor_digest(scan: Scan, tmp_path: Path) -> None:
    write(tmp_path / "here" / "docs" / "a" / "x.txt")
    before = scan(tmp_path / "here" / "docs")
    shutil.move(tmp_path / "here", tmp_path / "there")
    after = scan(tmp_path / "there" / "docs")
    assert uris(after) == uris(before) == ["file:docs/a/x.txt"]
    assert after.digest == before.digest


def test_dot_as_source_is_called_like_the_working_folder(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "docs" / "x.txt")
    (tmp_path / "docs" / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "docs")
    assert uris(scan(".")) == ["file:docs/x.txt"]
    monkeypatch.chdir(tmp_path / "docs" / "sub")
    assert uris(scan("..")) == ["file:docs/x.txt"]


def test_hidden_entries_are_counted_once_each_and_not_descended(scan: Scan, tmp_path: Path) -> None:
    write(tmp_path / "docs" / "x.txt")
    write(tmp_path / "docs" / ".DS_Store")
    write(tmp_path / "docs" / ".git" / "config.txt")
    write(tmp_path / "docs" / ".git" / "HEAD.txt")
    result = scan(tmp_path / "docs")
    assert uris(result) == ["file:docs/x.txt"]
    assert reasons(result) == {"file:docs/.DS_Store": "hidden", "file:docs/.git": "hidden"}


def test_a_hidden_folder_named_as_source_is_read(scan: Scan, tmp_path: Path) -> None:
    write(tmp_path / ".notes" / "x.txt")
    assert uris(scan(tmp_path / ".notes")) == ["file:.notes/x.txt"]


def test_an_empty_folder_holds_nothing(scan: Scan, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    result = scan(tmp_path / "docs")
    assert (result.inputs, result.drops) == ((), ())


def test_files_over_the_limit_are_dropped_and_files_at_the_limit_are_not(
    scan: Scan, tmp_path: Path
) -> None:
    write(tmp_path / "docs" / "at.txt", "x" * 100)
    write(tmp_path / "docs" / "over.txt", "x" * 101)
    result = scan(tmp_path / "docs", limits={"max_file_bytes": 100})
    assert uris(result) == ["file:docs/at.txt"]
    (drop,) = result.drops
    assert (drop.source_uri, drop.reason) == ("file:docs/over.txt", "too_large")
    assert drop.detail == "101 bytes; ingest.limits.max_file_bytes is 100"
    assert "max_file_bytes" in drop.remedy


def test_a_text_file_of_a_gigabyte_is_refused_without_being_read(
    scan: Scan, tmp_path: Path, peak_memory: Callable[[], int]
) -> None:
    huge = tmp_path / "huge.txt"
    with huge.open("wb") as stream:
        stream.truncate(1 << 30)
    before = peak_memory()
    assert reasons(scan(huge)) == {"file:huge.txt": "too_large"}
    assert peak_memory() - before < 50_000_000


def test_links_to_files_are_read_and_links_to_folders_are_not(
    scan: Scan, read: Read, tmp_path: Path
) -> None:
    outside = write(tmp_path / "outside" / "x.txt", "linked")
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "link.txt").symlink_to(outside)
    (docs / "folder").symlink_to(outside.parent)
    (docs / "loop").symlink_to(docs)
    (docs / "broken.txt").symlink_to(tmp_path / "nowhere.txt")
    result = scan(docs)
    assert [read(item) for item in result.inputs] == [b"linked"]
    assert reasons(result) == {
        "file:docs/folder": "folder_link",
        "file:docs/loop": "folder_link",
        "file:docs/broken.txt": "unreadable",
    }


def test_pipes_and_sockets_are_dropped_without_being_opened(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    os.mkfifo(docs / "pipe.txt")  # opening it would wait for a writer for ever
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(docs)  # socket paths are limited to about 100 bytes
        server.bind("s.txt")
        result = scan(docs)
    assert reasons(result) == {"file:docs/pipe.txt": "not_a_file", "file:docs/s.txt": "not_a_file"}


def test_file_names_that_are_not_utf8_are_read_under_a_readable_uri(
    scan: Scan, read: Read, tmp_path: Path
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    Path(os.fsdecode(os.fsencode(docs) + b"/caf\xe9.txt")).write_text("x")
    (item,) = scan(docs).inputs
    assert item.uri == "file:docs/caf\\xe9.txt"
    assert read(item) == b"x"


def test_decomposed_file_names_are_composed(scan: Scan, tmp_path: Path) -> None:
    write(tmp_path / "cafe\u0301.txt")
    assert uris(scan(tmp_path / "cafe\u0301.txt")) == ["file:caf\u00e9.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files_and_folders_are_dropped(scan: Scan, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    write(docs / "x.txt").chmod(0)
    write(docs / "locked" / "y.txt").parent.chmod(0)
    try:
        assert reasons(scan(docs)) == {
            "file:docs/x.txt": "unreadable",
            "file:docs/locked": "unreadable",
        }
    finally:
        (docs / "locked").chmod(0o700)


def test_a_folder_of_files_that_cannot_be_opened_is_all_drops(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, also for root."""
    for name in ("x.txt", "y.zip"):
        write(tmp_path / "docs" / name)
    real_open = Path.open

    def refuse(path: Path, *arguments: Any, **keywords: Any) -> Any:
        if path.parent.name == "docs":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real_open(path, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", refuse)
    result = scan(tmp_path / "docs")
    assert result.inputs == ()
    assert reasons(result) == {"file:docs/x.txt": "unreadable", "file:docs/y.zip": "unreadable"}
    assert {drop.detail for drop in result.drops} == {"Permission denied"}
    assert all(drop.remedy for drop in result.drops)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("docs/*.md", ["file:docs/a.md"]),
        ("docs/**/*.md", ["file:docs/a.md", "file:docs/x/b.md", "file:docs/x/y/c.md"]),
        ("docs/*/b.md", ["file:docs/x/b.md"]),
        ("docs/x/[bz].md", ["file:x/b.md"]),
        ("docs/**", ["a.md", "a.txt", "x/b.md", "x/y/c.md"]),
    ],
)
def test_a_glob_names_files_as_the_folder_before_its_first_wildcard_would(
    scan: Scan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pattern: str,
    expected: list[str],
) -> None:
    for name in ("a.md", "a.txt", "x/b.md", "x/y/c.md", ".hidden/d.md"):
        write(tmp_path / "docs" / name)
    monkeypatch.chdir(tmp_path)
    if pattern.endswith("**"):
        expected = [f"file:docs/{name}" for name in expected]
    assert uris(scan(pattern)) == expected
    assert uris(scan(tmp_path / pattern)) == expected


def test_a_glob_that_matches_nothing_is_an_error(scan: Scan, tmp_path: Path) -> None:
    write(tmp_path / "a.txt")
    with pytest.raises(InputError, match=r"No file matches .*\*\.md"):
        scan(tmp_path / "*.md")


def test_a_file_whose_name_looks_like_a_glob_is_read(scan: Scan, tmp_path: Path) -> None:
    assert uris(scan(write(tmp_path / "a[1].txt"))) == ["file:a[1].txt"]


def test_the_sample_is_pythons_language_reference(scan: Scan, read: Read) -> None:
    result = scan(SAMPLE_SOURCE)
    assert len(result.inputs) == len(topics) > 70
    page = result.inputs[0]
    assert page.uri == "sample:python-language-reference/assert"
    assert read(page).startswith(b'The "assert" statement\n')


def test_a_missing_path_is_an_error_that_names_it(scan: Scan, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent-docs.*No such file") as caught:
        scan(tmp_path / "absent-docs")
    assert "worker" in str(caught.value.hint)


@pytest.mark.parametrize("source", ["ftp://host/docs", "gs://bucket/docs"])
def test_an_unknown_scheme_is_an_error_that_names_it(scan: Scan, source: str) -> None:
    with pytest.raises(InputError) as caught:
        scan(source)
    assert repr(source) in caught.value.message
    assert repr(source.partition(":")[0]) in caught.value.message


def test_an_unknown_sample_is_an_error_that_names_the_known_one(scan: Scan) -> None:
    with pytest.raises(InputError, match="sample:tax-law") as caught:
        scan("sample:tax-law")
    assert SAMPLE_SOURCE in str(caught.value)


def test_a_file_whose_name_looks_like_a_scheme_is_read(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "notes:2024.txt")
    monkeypatch.chdir(tmp_path)
    assert uris(scan("notes:2024.txt")) == ["file:notes:2024.txt"]


def test_folders_of_one_name_may_not_give_one_uri_to_two_files(scan: Scan, tmp_path: Path) -> None:
    first = write(tmp_path / "v1" / "docs" / "x.txt")
    second = write(tmp_path / "v2" / "docs" / "x.txt")
    with pytest.raises(InputError, match=r"file:docs/x\.txt") as caught:
        scan(first.parent, second.parent)
    assert str(first) in caught.value.message
    assert str(second) in caught.value.message
    second.rename(second.with_name("y.txt"))
    assert uris(scan(first.parent, second.parent)) == ["file:docs/x.txt", "file:docs/y.txt"]


def test_the_same_source_twice_is_an_error(scan: Scan) -> None:
    with pytest.raises(InputError, match="Name each source once"):
        scan(SAMPLE_SOURCE, SAMPLE_SOURCE)


def test_the_digest_follows_contents_names_and_order(scan: Scan, tmp_path: Path) -> None:
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


def test_hidden_entries_leave_the_digest_alone(scan: Scan, tmp_path: Path) -> None:
    write(tmp_path / "docs" / "x.txt")
    before = scan(tmp_path / "docs").digest
    write(tmp_path / "docs" / ".DS_Store", "window positions")
    assert scan(tmp_path / "docs").digest == before


@pytest.mark.parametrize("change", ["edit", "grow", "delete"])
def test_an_input_that_changed_since_the_scan_is_refused(
    scan: Scan, read: Read, tmp_path: Path, change: str
) -> None:
    path = write(tmp_path / "x.txt", "before")
    (item,) = scan(path).inputs
    if change == "delete":
        path.unlink()
    else:
        path.write_text({"edit": "after!", "grow": "before and more"}[change])
    with pytest.raises(InputError, match=r"file:x\.txt changed while"):
        read(item)


def test_of_a_saved_dataset_only_the_listed_data_files_are_inputs(
    scan: Scan, read: Read, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "saved"
    rows = {"text": ["one", "two"], "year": [2001, 2002]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(folder))
    (folder / "cache-0123.arrow").write_bytes(b"left over")
    result = scan(folder)
    (item,) = result.inputs
    assert item.uri.startswith("file:saved/data-00000-of-00001.arrow#records-")
    assert [json.loads(line) for line in read(item).splitlines()] == [
        {"text": "one", "year": 2001},
        {"text": "two", "year": 2002},
    ]
    assert result.drops == ()


def test_a_dataset_in_splits_is_read_split_by_split(scan: Scan, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    splits = {name: datasets.Dataset.from_dict({"text": [name]}) for name in ("train", "test")}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    result = scan(tmp_path / "saved")
    assert [uri.partition("/")[2].partition("#")[0] for uri in uris(result)] == [
        "test/data-00000-of-00001.arrow",
        "train/data-00000-of-00001.arrow",
    ]
    assert result.drops == ()


def test_a_dataset_card_is_no_document_and_another_readme_is(scan: Scan, tmp_path: Path) -> None:
    card = "---\nlicense: mit\ndataset_info:\n  features: []\n---\n# A dataset\n"
    write(tmp_path / "repo" / "README.md", card)
    write(tmp_path / "repo" / "data" / "train.jsonl", '{"text": "one"}\n')
    write(tmp_path / "repo" / "docs" / "README.md", "---\ntitle: x\n---\ndataset_info: prose\n")
    assert [uri.partition("#")[0] for uri in uris(scan(tmp_path / "repo"))] == [
        "file:repo/data/train.jsonl",
        "file:repo/docs/README.md",
    ]
