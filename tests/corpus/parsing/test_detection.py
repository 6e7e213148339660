"""Content decides where it is unmistakable, then what the source declares, then the name."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

import pytest

from pipeline_lib.corpus.media_types import (
    ARROW,
    CSV,
    DOCX,
    EPUB,
    HTML,
    JSONL,
    MARKDOWN,
    NOTEBOOK,
    PARQUET,
    PDF,
    PLAIN_TEXT,
    PPTX,
    RESTRUCTURED_TEXT,
    SOURCE_CODE,
    TAR,
    XLSX,
    ZIP,
)
from pipeline_lib.corpus.parsing.detection import HEAD_BYTES, detect_media_type, suffix_of

Zipped = Callable[[dict[str, str | bytes]], bytes]


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("notes.TXT", PLAIN_TEXT),
        ("file:docs/a.md", MARKDOWN),
        ("a.mdx", MARKDOWN),
        ("a.rst", RESTRUCTURED_TEXT),
        ("a.htm", HTML),
        ("a.tsv", CSV),
        ("a.ipynb", NOTEBOOK),
        ("a.ndjson", JSONL),
        ("file:docs.zip!/src/main.rs", SOURCE_CODE),
        ("a.tar.gz", TAR),
        ("README", PLAIN_TEXT),
        ("docs/LICENSE", PLAIN_TEXT),
        ("a.exe", None),
        ("no-suffix", None),
        ("https://e.org/a.md?version=1.2", MARKDOWN),
        ("https://e.org/", None),
    ],
)
def test_text_goes_by_its_name(name: str, media_type: str | None) -> None:
    assert detect_media_type(name, b"some text") == media_type


@pytest.mark.parametrize(
    ("name", "head", "media_type"),
    [
        ("report.docx", b"%PDF-1.7\n", PDF),
        ("report.txt", b"%PDF-1.7\n", PDF),
        ("report.pdf", b"\xef\xbb\xbf\n%PDF-1.7\n", PDF),
        ("about-pdf.txt", b"A file begins with %PDF-1.7", PLAIN_TEXT),
        ("data", b"PAR1....", PARQUET),
        ("data.bin", b"ARROW1\0\0", ARROW),
        ("page.pdf", b"<!DOCTYPE html><html>saved error page", HTML),
        ("page", b"\n <html lang='en'>", HTML),
        ("widget.vue", b"<html>", SOURCE_CODE),
        ("x", b"\0" * 257 + b"ustar", TAR),
        ("x.tgz", b"\x1f\x8b\x08", TAR),
        ("x.gz", b"\x1f\x8b\x08", None),
        ("not-a-zip.docx", b"plain text", DOCX),
    ],
)
def test_unmistakable_content_beats_the_name(name: str, head: bytes, media_type: str) -> None:
    assert detect_media_type(name, head) == media_type


@pytest.mark.parametrize(
    ("declared", "name", "media_type"),
    [
        ("text/html; charset=utf-8", "https://e.org/index.php", HTML),
        ("application/xhtml+xml", "https://e.org/", HTML),
        ("text/plain", "https://e.org/README.md", MARKDOWN),
        ("application/octet-stream", "https://e.org/a.csv", CSV),
        ("text/plain", "https://e.org/terms", PLAIN_TEXT),
        ("image/png", "https://e.org/picture", None),
        (JSONL, "file:a.parquet#records-5f3a", JSONL),
    ],
)
def test_a_declaration_beats_the_name_unless_it_says_little(
    declared: str, name: str, media_type: str | None
) -> None:
    assert detect_media_type(name, b"some text", declared) == media_type


@pytest.mark.parametrize(
    ("members", "name", "media_type"),
    [
        (("[Content_Types].xml", "word/document.xml"), "a.zip", DOCX),
        (("_rels/.rels", "ppt/presentation.xml"), "a", PPTX),
        (("[Content_Types].xml", "xl/workbook.xml"), "a.docx", XLSX),
        (("META-INF/container.xml", "OEBPS/book.opf"), "a", EPUB),
        (("word/a.md", "word/b.md"), "a.zip", ZIP),
        (("a.md",), "a.bin", ZIP),
        (("a.md",), "a.docx", DOCX),  # its parser says what is wrong
    ],
)
def test_a_zip_is_known_by_its_members(
    members: tuple[str, ...], name: str, media_type: str, zipped: Zipped
) -> None:
    data = zipped(dict.fromkeys(members, "content"))
    assert detect_media_type(name, data[:HEAD_BYTES]) == media_type


def test_an_archive_that_holds_a_word_file_is_an_archive(docx_bytes: Callable[..., bytes]) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("letters/a.docx", docx_bytes("Dear reader"))
    assert detect_media_type("letters.zip", stream.getvalue()[:HEAD_BYTES]) == ZIP


def test_real_files_are_known_without_their_names(samples: dict[str, bytes]) -> None:
    kinds = {
        uri.rpartition(".")[2]: detect_media_type("file", data[:HEAD_BYTES])
        for uri, data in samples.items()
    }
    assert {name: kind for name, kind in kinds.items() if kind} == {
        "pdf": PDF,
        "docx": DOCX,
        "pptx": PPTX,
        "xlsx": XLSX,
        "epub": EPUB,
        "html": HTML,
    }


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.TAR.GZ", ".tar.gz"), ("a.b.md", ".md"), ("v1.2/readme", ""), (".env", "")],
)
def test_suffixes(name: str, suffix: str) -> None:
    assert suffix_of(name) == suffix
