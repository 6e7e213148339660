"""Word: everything in the body, in order, as Markdown."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import pytest

from pipeline_lib.config import IngestConfig
from pipeline_lib.config.corpus import IngestLimits
from pipeline_lib.corpus.parsing.base import ParsedDocument
from pipeline_lib.corpus.schema import Drop

ParseOne = Callable[..., ParsedDocument]
Refuse = Callable[..., Drop]
ToBytes = Callable[[Any], bytes]
W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def element(xml: str) -> Any:
    from docx.oxml import parse_xml

    return parse_xml(xml)


def test_paragraphs_lists_and_tables_in_order(parse_one: ParseOne, to_bytes: ToBytes) -> None:
    import docx

    document = docx.Document()
    document.core_properties.title = "Terms"
    document.core_properties.author = "A. Writer"
    document.core_properties.language = "de-DE"
    document.add_heading("Returns", level=0)
    document.add_paragraph("Before the table.")
    document.add_heading("Zones", level=2)
    table = document.add_table(rows=2, cols=2)
    for row, texts in zip(table.rows, [("zone", "days"), ("A|B", "3\n4")], strict=True):
        for cell, text in zip(row.cells, texts, strict=True):
            cell.text = text
    document.add_paragraph("After the table.")
    document.add_paragraph("first", style="List Bullet")
    document.add_paragraph("second", style="List Bullet")
    document.add_paragraph("one", style="List Number")
    document.add_paragraph("two", style="List Number")
    parsed = parse_one(to_bytes(document), "file:a.docx")
    assert parsed.segments[0].text == (
        "# Returns\n\nBefore the table.\n\n## Zones\n\n"
        "| zone | days |\n| --- | --- |\n| A\\|B | 3 4 |\n\n"
        "After the table.\n\n- first\n- second\n1. one\n2. two"
    )
    assert (parsed.title, parsed.language, parsed.is_markdown) == ("Terms", "de", True)
    assert parsed.metadata["author"] == "A. Writer"
    assert "comments" not in parsed.metadata  # python-docx's own mark


def test_a_table_in_a_cell_is_text_of_that_cell_once(
    parse_one: ParseOne, to_bytes: ToBytes
) -> None:
    import docx

    document = docx.Document()
    cells = document.add_table(rows=1, cols=2).rows[0].cells
    cells[0].text = "outer"
    inner = cells[0].add_table(rows=1, cols=2)
    inner.rows[0].cells[0].text, inner.rows[0].cells[1].text = "in", "ner"
    cells[1].text = "b"
    text = parse_one(to_bytes(document), "file:a.docx").segments[0].text
    assert " ".join(text.split()) == "| outer in ner | b | | --- | --- |"


def test_merged_cells_keep_their_columns(parse_one: ParseOne, to_bytes: ToBytes) -> None:
    import docx

    document = docx.Document()
    table = document.add_table(rows=2, cols=3)
    for number, cell in enumerate(cell for row in table.rows for cell in row.cells):
        cell.text = str(number)
    table.cell(0, 0).merge(table.cell(0, 1)).text = "both"
    text = parse_one(to_bytes(document), "file:a.docx").segments[0].text
    assert text == "| both |  | 2 |\n| --- | --- | --- |\n| 3 | 4 | 5 |"


def test_hyperlinks_insertions_and_content_controls_count_deletions_do_not(
    parse_one: ParseOne, to_bytes: ToBytes
) -> None:
    import docx

    document = docx.Document()
    paragraph = document.add_paragraph("See ")
    paragraph._p.append(element(f"<w:hyperlink {W}><w:r><w:t>the terms</w:t></w:r></w:hyperlink>"))
    paragraph._p.append(element(f"<w:ins {W}><w:r><w:t> (new)</w:t></w:r></w:ins>"))
    paragraph._p.append(element(f"<w:del {W}><w:r><w:delText>old</w:delText></w:r></w:del>"))
    document.element.body.insert(
        1,
        element(
            f"<w:sdt {W}><w:sdtContent><w:p><w:r><w:t>In a control.</w:t></w:r></w:p>"
            "</w:sdtContent></w:sdt>"
        ),
    )
    text = parse_one(to_bytes(document), "file:a.docx").segments[0].text
    assert text == "See the terms (new)\n\nIn a control."


def test_text_boxes_come_below_their_paragraph_once(parse_one: ParseOne, to_bytes: ToBytes) -> None:
    import docx

    document = docx.Document()
    box = "<w:txbxContent><w:p><w:r><w:t>boxed</w:t></w:r></w:p></w:txbxContent>"
    document.add_paragraph("anchor")._p.append(
        element(
            f"<w:r {W} xmlns:mc='http://schemas.openxmlformats.org/markup-compatibility/2006'>"
            f"<mc:AlternateContent><mc:Choice Requires='wps'>{box}</mc:Choice>"
            f"<mc:Fallback>{box}</mc:Fallback></mc:AlternateContent></w:r>"
        )
    )
    assert parse_one(to_bytes(document), "file:a.docx").segments[0].text == "anchor\n\nboxed"


def test_footnotes_follow_and_headers_are_left_out(parse_one: ParseOne, to_bytes: ToBytes) -> None:
    import docx
    from docx.opc.packuri import PackURI
    from docx.opc.part import Part

    document = docx.Document()
    document.sections[0].header.paragraphs[0].text = "on every page"
    document.add_paragraph("Fourteen days")._p.append(
        element(f"<w:r {W}><w:footnoteReference w:id='7'/></w:r>")
    )
    note = "<w:footnote w:id='7'><w:p><w:r><w:t>Working days.</w:t></w:r></w:p></w:footnote>"
    notes = f"<w:footnotes {W}>{note}</w:footnotes>"
    part = Part(
        PackURI("/word/footnotes.xml"),
        "application/vnd.openxmlformats-officedocument.wordprocessingml.footnotes+xml",
        notes.encode(),
        document.part.package,
    )
    kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/footnotes"
    document.part.relate_to(part, kind)
    text = parse_one(to_bytes(document), "file:a.docx").segments[0].text
    assert text == "Fourteen days[^1]\n\n[^1]: Working days."


def test_right_to_left_and_east_asian_text(parse_one: ParseOne, docx_bytes: Any) -> None:
    text = parse_one(docx_bytes("שלום עולם", "日本語の段落"), "file:a.docx").segments[0].text
    assert "שלום עולם\n\n日本語の段落" in text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"Dear reader, this is text.", "broken_file"),
        (b"PK\x03\x04 cut off", "broken_file"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 binary", "unsupported_type"),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le"),
            "encrypted",
        ),
    ],
)
def test_what_is_no_word_file_is_a_drop(refuse: Refuse, data: bytes, reason: str) -> None:
    assert refuse(data, "file:a.docx").reason == reason


def test_a_zip_without_a_document_is_a_drop(refuse: Refuse, zipped: Any) -> None:
    assert refuse(zipped({"a.txt": "a"}), "file:a.docx").reason == "broken_file"


def test_a_document_without_text_is_a_drop(refuse: Refuse, to_bytes: ToBytes) -> None:
    import docx

    assert refuse(to_bytes(docx.Document()), "file:a.docx").reason == "no_text"


def test_a_zip_bomb_inside_is_a_drop(
    refuse: Refuse, docx_bytes: Any, changed_member: Callable[..., bytes]
) -> None:
    bomb = changed_member(docx_bytes("a"), "word/document.xml", lambda xml: xml + b" " * 10**7)
    config = IngestConfig(limits=IngestLimits(max_unpacked_bytes=10**6))
    assert len(bomb) < 10**5
    drop = refuse(bomb, "file:a.docx", config=config)
    assert drop.reason == "unpacked_too_large"
    assert "max_unpacked_bytes is 1000000" in drop.detail


def test_a_member_that_unpacks_to_more_than_it_states_is_not_followed(
    refuse: Refuse, docx_bytes: Any, changed_member: Callable[..., bytes]
) -> None:
    bomb = changed_member(docx_bytes("a"), "word/document.xml", lambda xml: xml + b" " * 10**7)
    with zipfile.ZipFile(io.BytesIO(bomb)) as archive:
        stated = archive.getinfo("word/document.xml").file_size
    lying = bomb.replace(struct.pack("<I", stated), struct.pack("<I", 1000))
    config = IngestConfig(limits=IngestLimits(max_unpacked_bytes=10**6))
    assert refuse(lying, "file:a.docx", config=config).reason == "broken_file"


@pytest.mark.parametrize(
    "declaration",
    [
        b'<!DOCTYPE w [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        b"<!DOCTYPE w [<!ENTITY x 'xxxxxxxx'><!ENTITY y '&x;&x;&x;&x;&x;&x;&x;&x;'>]>",
        b"<!-- " + b"x" * 70_000 + b" --><!DOCTYPE w>",
    ],
)
def test_xml_that_declares_entities_is_a_drop(
    refuse: Refuse, docx_bytes: Any, changed_member: Callable[..., bytes], declaration: bytes
) -> None:
    def change(xml: bytes) -> bytes:
        head, _, body = xml.partition(b"?>")
        return head + b"?>" + declaration + body.replace(b"Returns", b"&x;")

    data = changed_member(docx_bytes("a"), "word/document.xml", change)
    drop = refuse(data, "file:a.docx")
    assert drop.reason == "broken_file"
    assert "word/document.xml declares XML entities" in drop.detail
