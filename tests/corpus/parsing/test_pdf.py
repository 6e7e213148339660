"""PDF: pages with their printed labels, whole words, no running heads, and clear refusals."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest

from pipeline_lib.config import IngestConfig
from pipeline_lib.config.corpus import IngestLimits
from pipeline_lib.corpus.parsing.base import ParsedDocument, Segment
from pipeline_lib.corpus.parsing.pdf import _read_with_pypdf
from pipeline_lib.corpus.parsing.pdf_text import join_hyphens, strip_running_lines
from pipeline_lib.corpus.schema import Drop

ParseOne = Callable[..., ParsedDocument]
Refuse = Callable[..., Drop]
MakePdf = Callable[..., bytes]


def test_pages_carry_their_printed_labels(parse_one: ParseOne, pdf: MakePdf) -> None:
    data = pdf([["Parcels may be returned."], [], ["Cards take five days."]], label_style="r")
    parsed = parse_one(data, "file:a.pdf")
    assert parsed.segments == (
        Segment(text="Parcels may be returned.", kind="page", label="i"),
        Segment(text="Cards take five days.", kind="page", label="iii"),
    )
    assert not parsed.is_markdown
    assert parsed.metadata == {"num_pages": 3, "num_pages_without_text": 1}


def test_pages_without_labels_are_counted_from_one(parse_one: ParseOne, pdf: MakePdf) -> None:
    parsed = parse_one(pdf([["a"], ["b"]]), "file:a.pdf")
    assert [segment.label for segment in parsed.segments] == ["1", "2"]


def test_a_gap_between_lines_becomes_a_blank_line(parse_one: ParseOne, pdf: MakePdf) -> None:
    data = pdf([["The first paragraph", "goes on.", "", "The second one", "ends here."]])
    assert parse_one(data, "file:a.pdf").segments[0].text == (
        "The first paragraph\ngoes on.\n\nThe second one\nends here."
    )


def test_document_properties(parse_one: ParseOne, pdf: MakePdf) -> None:
    parsed = parse_one(pdf([["a"]], title="Terms of return"), "file:a.pdf")
    assert parsed.title == "Terms of return"
    assert parsed.metadata == {"num_pages": 1, "creationdate": "2024-02-29"}


@pytest.mark.parametrize("title", ["", "untitled", "Microsoft Word - terms.doc", "terms.indd"])
def test_a_file_name_is_no_title(parse_one: ParseOne, pdf: MakePdf, title: str) -> None:
    assert parse_one(pdf([["a"]], title=title), "file:a.pdf").title is None


def test_a_pdf_without_text_asks_for_ocr(refuse: Refuse, pdf: MakePdf) -> None:
    drop = refuse(pdf([[], []]), "file:scan.pdf")
    assert drop.reason == "no_text"
    assert "2 pages" in drop.detail
    assert "OCR" in drop.remedy


def encrypted(data: bytes, password: str) -> bytes:
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(data)))
    writer.encrypt(password, owner_password="owner", algorithm="RC4-128")
    stream = io.BytesIO()
    writer.write(stream)
    return stream.getvalue()


def test_a_pdf_with_a_password_is_a_drop(refuse: Refuse, pdf: MakePdf) -> None:
    drop = refuse(encrypted(pdf([["secret"]]), "password"), "file:a.pdf")
    assert drop.reason == "encrypted"
    assert "password" in drop.remedy


def test_a_pdf_that_anybody_may_open_is_read(parse_one: ParseOne, pdf: MakePdf) -> None:
    """Encrypted against printing or editing only."""
    parsed = parse_one(encrypted(pdf([["open to all"]]), ""), "file:a.pdf")
    assert parsed.segments[0].text == "open to all"


def test_more_pages_than_allowed_are_a_drop(refuse: Refuse, pdf: MakePdf) -> None:
    config = IngestConfig(limits=IngestLimits(max_pages=2))
    drop = refuse(pdf([["a"], ["b"], ["c"]]), "file:a.pdf", config=config)
    assert (drop.reason, drop.detail) == (
        "too_many_pages",
        "3 pages; ingest.limits.max_pages is 2",
    )


@pytest.mark.parametrize("data", [b"%PDF-1.7\n", b"%PDF-1.7\n" + b"junk " * 100, b"no pdf at all"])
def test_a_broken_pdf_is_a_drop(refuse: Refuse, data: bytes) -> None:
    assert refuse(data, "file:a.pdf").reason == "broken_file"


def test_pypdf_reads_the_same(pdf: MakePdf) -> None:
    data = pdf([["Parcels may be returned."], ["b"]], title="Terms", label_style="r")
    pages = _read_with_pypdf(data, 10, ValueError("refused"))
    assert [text.strip() for text in pages.texts] == ["Parcels may be returned.", "b"]
    assert pages.labels == ["i", "ii"]
    assert pages.properties["Title"] == "Terms"


def test_words_divided_at_line_ends_are_made_whole() -> None:
    pages = ["the iden\ufffetifier of a well\ufffeknown", "identifier is well-known; 3\ufffe4"]
    assert join_hyphens(pages) == [
        "the identifier of a well-known",
        "identifier is well-known; 3-4",
    ]


def test_lines_that_most_pages_repeat_at_their_edges_go() -> None:
    pages = [
        f"Terms of return\nPage {n} of 5\ntext {n}\nTerms of return\nmore {n}\n{n}"
        for n in range(1, 5)
    ]
    pages.append("Appendix\nlast text\nthe end")
    assert strip_running_lines(pages) == [
        "text 1\nTerms of return\nmore 1",
        "text 2\nTerms of return\nmore 2",
        "text 3\nTerms of return\nmore 3",
        "text 4\nTerms of return\nmore 4",
        "Appendix\nlast text\nthe end",
    ]


def test_lines_that_differ_by_another_number_are_text() -> None:
    pages = [
        f"Item {price}\ntext of {price * 7}\nTotal: {price} euros" for price in (17, 3, 250, 8, 99)
    ]
    assert strip_running_lines(pages) == pages


def test_few_pages_are_left_as_they_are() -> None:
    pages = ["Head\na", "Head\nb", "Head\nc"]
    assert strip_running_lines(pages) == pages
