"""Small real files of each format, and how to parse them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus.parsing.base import ParsedDocument
from pipeline_lib.corpus.parsing.registry import parse
from pipeline_lib.corpus.schema import Drop
from pipeline_lib.corpus.sources.base import SourceInput

Parsed = ParsedDocument | Drop


@pytest.fixture
def parse_all(source_input: Callable[..., SourceInput]) -> Callable[..., list[Parsed]]:
    """`parse_all(data, uri, config=…, **fields of the input)`: everything that comes of it."""

    def parse_all(
        data: bytes, uri: str, config: IngestConfig | None = None, **fields: Any
    ) -> list[Parsed]:
        return list(parse(source_input(uri, data, **fields), data, config or IngestConfig()))

    return parse_all


@pytest.fixture
def parse_one(parse_all: Callable[..., list[Parsed]]) -> Callable[..., ParsedDocument]:
    """As `parse_all`, for what must become exactly one document."""

    def parse_one(data: bytes, uri: str, **arguments: Any) -> ParsedDocument:
        (item,) = parse_all(data, uri, **arguments)
        assert isinstance(item, ParsedDocument), item
        return item

    return parse_one


@pytest.fixture
def refuse(parse_all: Callable[..., list[Parsed]]) -> Callable[..., Drop]:
    """As `parse_all`, for what must become exactly one drop, with a remedy."""

    def refuse(data: bytes, uri: str, **arguments: Any) -> Drop:
        (item,) = parse_all(data, uri, **arguments)
        assert isinstance(item, Drop), item
        assert item.detail
        assert item.remedy
        return item

    return refuse


def make_pdf(
    pages: Sequence[Sequence[str]], *, title: str | None = None, label_style: str | None = None
) -> bytes:
    """Pages of lines in Helvetica, 14 points apart; an empty line leaves a gap.

    Args:
        pages: lines of Latin-1 text.
        title: document property.
        label_style: `r` for pages that are printed i, ii, iii.
    """
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    labels = f"/PageLabels << /Nums [0 << /S /{label_style} >>] >>" if label_style else ""
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R {labels} >>".encode(),
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for number, lines in enumerate(pages):
        shown = "".join(f"({_escaped(line)}) Tj 0 -14 Td " for line in lines)
        stream = f"BT /F1 10 Tf 72 720 Td {shown}ET".encode("cp1252") if lines else b""
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] "
            b"/Resources << /Font << /F1 3 0 R >> >> /Contents %d 0 R >>" % (5 + 2 * number)
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
    if title is not None:
        objects.append(
            f"<< /Title ({_escaped(title)}) /CreationDate (D:20240229120000Z) >>".encode()
        )
    return _pdf_file(objects, info=len(objects) if title is not None else None)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")


def _pdf_file(objects: Sequence[bytes], info: int | None) -> bytes:
    body, offsets = bytearray(b"%PDF-1.4\n"), []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    start = len(body)
    body += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    body += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    entry = b" /Info %d 0 R" % info if info else b""
    body += b"trailer\n<< /Size %d /Root 1 0 R%s >>\n" % (len(objects) + 1, entry)
    return bytes(body + b"startxref\n%d\n%%%%EOF\n" % start)


@pytest.fixture(scope="session")
def pdf() -> Callable[..., bytes]:
    return make_pdf


def make_zip(members: dict[str, str | bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


@pytest.fixture(scope="session")
def zipped() -> Callable[[dict[str, str | bytes]], bytes]:
    return make_zip


def replace_member(package: bytes, name: str, change: Callable[[bytes], bytes]) -> bytes:
    """The package with one member changed."""
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        members: dict[str, str | bytes] = {n: archive.read(n) for n in archive.namelist()}
    members[name] = change(bytes(members[name]))  # type: ignore[arg-type]
    return make_zip(members)


@pytest.fixture(scope="session")
def changed_member() -> Callable[..., bytes]:
    return replace_member


CONTAINER = """<?xml version="1.0"?>
<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>
<rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/>
</rootfiles></container>"""


def make_epub(chapters: dict[str, str], **extra: str) -> bytes:
    """An EPUB 3 with a chapter per file name; `extra` are further members by their name."""
    items = "".join(
        f'<item id="i{n}" href="{name}" media-type="application/xhtml+xml"/>'
        for n, name in enumerate(chapters)
    )
    spine = "".join(f'<itemref idref="i{n}"/>' for n in range(len(chapters)))
    opf = f"""<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0">
<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>The Parcel Book</dc:title>
<dc:language>en-GB</dc:language><dc:creator>A. Writer</dc:creator></metadata>
<manifest><item id="nav" href="nav.xhtml" properties="nav" media-type="application/xhtml+xml"/>
{items}</manifest><spine><itemref idref="nav"/>{spine}</spine></package>"""
    pages = {
        f"OEBPS/{name}": f'<html xmlns="http://www.w3.org/1999/xhtml"><head><title>x</title></head>'
        f"<body>{body}</body></html>"
        for name, body in {"nav.xhtml": "<nav>Contents</nav>", **chapters}.items()
    }
    members = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": CONTAINER,
        "OEBPS/book.opf": opf,
        **pages,
        **extra,
    }
    return make_zip(dict(members))


@pytest.fixture(scope="session")
def epub() -> Callable[..., bytes]:
    return make_epub


def make_docx(*paragraphs: str) -> bytes:
    import docx

    document = docx.Document()
    document.core_properties.title = "Parcels"
    document.add_heading("Returns", level=1)
    for paragraph in paragraphs:
        document.add_paragraph(paragraph)
    table = document.add_table(rows=2, cols=2)
    for cell, text in zip(
        [*table.rows[0].cells, *table.rows[1].cells], ["zone", "days", "A", "3"], strict=True
    ):
        cell.text = text
    return saved(document)


@pytest.fixture(scope="session")
def docx_bytes() -> Callable[..., bytes]:
    return make_docx


def make_pptx() -> bytes:
    import pptx

    presentation = pptx.Presentation()
    for number in (1, 2):
        slide = presentation.slides.add_slide(presentation.slide_layouts[1])
        slide.shapes.title.text = f"Slide {number}"
        slide.placeholders[1].text = "first point\nsecond point"
    return saved(presentation)


def make_xlsx() -> bytes:
    import openpyxl

    workbook = openpyxl.Workbook()
    for row in [["zone", "days"], ["A", 3], ["B", 4.5]]:
        workbook.active.append(row)
    return saved(workbook)


def saved(document: Any) -> bytes:
    """What `document.save` writes."""
    stream = io.BytesIO()
    document.save(stream)
    return stream.getvalue()


@pytest.fixture(scope="session")
def to_bytes() -> Callable[[Any], bytes]:
    return saved


@pytest.fixture(scope="session")
def samples() -> dict[str, bytes]:
    """One real file of each format, by the URI that its name gives it."""
    text = "Parcels may be returned within fourteen days. " * 20
    page = f"<html><head><title>T</title></head><body><main><h1>H</h1><p>{text}</p></main></body>"
    return {
        "file:a.txt": text.encode("utf-16"),
        "file:a.md": f"---\ntitle: Parcels\ntags: [a, b]\n---\n# H\n\n{text}\n".encode(),
        "file:a.mdx": f"import A from 'a'\n\n# H\n\n<A b={{1}}>\n{text}\n</A>\n".encode(),
        "file:a.rst": f"H\n=\n\n{text}\n".encode(),
        "file:a.html": page.encode(),
        "file:a.jsonl": b'{"id": 1, "text": "one"}\n{"id": 2, "text": "two", "k": [1, 2]}\n',
        "file:a.csv": "zone;days;Größe\nA;3;4\nB;4;5\n".encode("cp1252"),
        "file:a.py": b"def f():\n    return 1\n",
        "file:a.ipynb": b'{"cells": [{"cell_type": "code", "source": ["x = 1"], "outputs": []},'
        b' {"cell_type": "markdown", "source": "# H"}], "metadata": {}, "nbformat": 4}',
        "file:a.pdf": make_pdf([["Page one.", "", text[:60]], ["Page two."]], title="Parcels"),
        "file:a.docx": make_docx(text, text),
        "file:a.pptx": make_pptx(),
        "file:a.xlsx": make_xlsx(),
        "file:a.epub": make_epub({"one.xhtml": f"<h1>One</h1><p>{text}</p>"}),
    }
