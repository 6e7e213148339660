"""PDF: one segment a page, labelled as the page is printed (`iv`, `12`).

pdfium reads; pypdf, slower but more lenient with damaged files, gets what pdfium refuses. Lines
stay lines. What is added or taken away is little, so that quotes equal what is printed: blank lines
between paragraphs, lines that nearly every page repeats, hyphens at line ends (`pdf_text`).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus.drops import DropReason, RefusedInputError
from pipeline_lib.corpus.media_types import PDF
from pipeline_lib.corpus.parsing.base import ParsedDocument, Segment, name_of
from pipeline_lib.corpus.parsing.metadata import json_ready
from pipeline_lib.corpus.parsing.pdf_text import join_hyphens, paragraphs, strip_running_lines
from pipeline_lib.corpus.sources.base import SourceInput

_PROPERTIES = ("Author", "Subject", "Keywords", "CreationDate", "ModDate")
_DATE = re.compile(r"D:(\d{4})(\d{2})?(\d{2})?")
"""ISO 32000-1, section 7.9.4."""
_NO_TITLE = re.compile(r"untitled|.*\.(?:docx?|pptx?|xlsx?|indd|tex|dvi|qxd|pdf)", re.IGNORECASE)
"""What programs write when nobody gave a title: the name of the file they had open."""
_PROGRAM_PREFIX = re.compile(r"Microsoft (?:Word|PowerPoint) - ")


@dataclass(frozen=True)
class _Pages:
    """What either library makes of a file."""

    texts: list[str]
    labels: list[str]
    properties: dict[str, str]


def parse_pdf(item: SourceInput, data: bytes, config: IngestConfig) -> Iterator[ParsedDocument]:
    """Pages with text; `metadata["num_pages_without_text"]` when there are others."""
    pages = _read(data, config.limits.max_pages)
    texts = strip_running_lines(join_hyphens(pages.texts))
    segments = tuple(
        Segment(text=text, kind="page", label=label)
        for text, label in zip(texts, pages.labels, strict=True)
        if text.strip()
    )
    if not segments:
        raise RefusedInputError(
            DropReason.NO_TEXT, f"none of the {len(texts)} pages has text; they may be scans"
        )
    metadata: dict[str, Any] = {"num_pages": len(texts)}
    if len(segments) < len(texts):
        metadata["num_pages_without_text"] = len(texts) - len(segments)
    for name in _PROPERTIES:
        if value := pages.properties.get(name):
            metadata[name.lower()] = _date(value) if name.endswith("Date") else value
    yield ParsedDocument(
        source_uri=item.uri,
        media_type=PDF,
        segments=segments,
        title=_title(pages.properties.get("Title", "")) or item.title,
        name=name_of(item.uri),
        metadata=json_ready(metadata),
    )


def _read(data: bytes, max_pages: int) -> _Pages:
    import pypdfium2
    from pypdfium2.raw import FPDF_ERR_PASSWORD

    try:
        return _read_with_pdfium(data, max_pages)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == FPDF_ERR_PASSWORD:
            raise RefusedInputError(DropReason.ENCRYPTED, "a PDF with a password") from error
        return _read_with_pypdf(data, max_pages, error)


def _read_with_pdfium(data: bytes, max_pages: int) -> _Pages:
    import pypdfium2

    with closing(pypdfium2.PdfDocument(data)) as document:
        num_pages = len(document)
        _check_num_pages(num_pages, max_pages)
        texts = []
        for index in range(num_pages):
            with closing(document[index]) as page, closing(page.get_textpage()) as textpage:
                texts.append(paragraphs(textpage))
        labels = [document.get_page_label(index) or str(index + 1) for index in range(num_pages)]
        return _Pages(texts, labels, document.get_metadata_dict())


def _read_with_pypdf(data: bytes, max_pages: int, refusal: Exception) -> _Pages:
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(io.BytesIO(data), strict=False)
        if reader.is_encrypted and not reader.decrypt(""):
            raise RefusedInputError(DropReason.ENCRYPTED, "a PDF with a password")
        _check_num_pages(len(reader.pages), max_pages)
        texts = [page.extract_text() for page in reader.pages]
        properties = {key.lstrip("/"): str(value) for key, value in (reader.metadata or {}).items()}
        return _Pages(texts, list(reader.page_labels), properties)
    except PyPdfError as error:
        detail = f"not a readable PDF: pdfium says {refusal}, pypdf says {error}"
        raise RefusedInputError(DropReason.BROKEN_FILE, detail) from error


def _check_num_pages(num_pages: int, max_pages: int) -> None:
    if num_pages > max_pages:
        detail = f"{num_pages} pages; ingest.limits.max_pages is {max_pages}"
        raise RefusedInputError(DropReason.TOO_MANY_PAGES, detail)
    if num_pages == 0:
        raise RefusedInputError(DropReason.BROKEN_FILE, "a PDF without pages")


def _title(title: str) -> str | None:
    title = _PROGRAM_PREFIX.sub("", title).strip()
    return None if not title or _NO_TITLE.fullmatch(title) else title


def _date(value: str) -> str:
    match = _DATE.match(value)
    return "-".join(filter(None, match.groups())) if match else value
