"""Finds the parser for an input.

Parsers are plain functions by media type. What they cannot read becomes a `Drop` that says why;
they never end the stage. That a parser hangs, crashes or eats memory is for `corpus.sandbox`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus.drops import DropReason, RefusedInputError
from pipeline_lib.corpus.media_types import (
    CSV,
    DOCX,
    EPUB,
    HTML,
    JSONL,
    MARKDOWN,
    NOTEBOOK,
    PDF,
    PLAIN_TEXT,
    PPTX,
    RESTRUCTURED_TEXT,
    SOURCE_CODE,
    XLSX,
)
from pipeline_lib.corpus.parsing.base import ParsedDocument, Parser
from pipeline_lib.corpus.parsing.delimited import parse_delimited
from pipeline_lib.corpus.parsing.detection import HEAD_BYTES, detect_media_type, suffix_of
from pipeline_lib.corpus.parsing.docx import parse_docx
from pipeline_lib.corpus.parsing.epub import parse_epub
from pipeline_lib.corpus.parsing.html import parse_html
from pipeline_lib.corpus.parsing.loaders import LOADED, find_loader
from pipeline_lib.corpus.parsing.markdown import parse_markdown
from pipeline_lib.corpus.parsing.notebook import parse_notebook
from pipeline_lib.corpus.parsing.pdf import parse_pdf
from pipeline_lib.corpus.parsing.plain import parse_plain, parse_rst, parse_source_code
from pipeline_lib.corpus.parsing.pptx import parse_pptx
from pipeline_lib.corpus.parsing.records import parse_jsonl
from pipeline_lib.corpus.parsing.xlsx import parse_xlsx
from pipeline_lib.corpus.schema import Drop
from pipeline_lib.corpus.sources.base import SourceInput
from pipeline_lib.errors import RaftlineError

_LOG = logging.getLogger(__name__)

BUILTIN_PARSERS: Mapping[str, Parser] = {
    PLAIN_TEXT: parse_plain,
    MARKDOWN: parse_markdown,
    RESTRUCTURED_TEXT: parse_rst,
    SOURCE_CODE: parse_source_code,
    HTML: parse_html,
    PDF: parse_pdf,
    DOCX: parse_docx,
    PPTX: parse_pptx,
    XLSX: parse_xlsx,
    CSV: parse_delimited,
    EPUB: parse_epub,
    NOTEBOOK: parse_notebook,
    JSONL: parse_jsonl,
}
"""By media type."""


def parse(item: SourceInput, data: bytes, config: IngestConfig) -> Iterator[ParsedDocument | Drop]:
    """The documents in one input, in order; at least one document or drop."""
    try:
        yield from _parser_for(item, data, config)(item, data, config)
    except RefusedInputError as refusal:
        yield refusal.to_drop(item.uri)
    except (MemoryError, RaftlineError):  # of the sandbox, of the configuration
        raise
    except Exception as error:  # noqa: BLE001 - on damaged files the libraries raise anything
        _LOG.debug("The parser failed on %s", item.uri, exc_info=True)
        detail = f"the parser stopped with {type(error).__name__}: {error}"[:500]
        yield RefusedInputError(DropReason.BROKEN_FILE, detail).to_drop(item.uri)


def _parser_for(item: SourceInput, data: bytes, config: IngestConfig) -> Parser:
    if item.records is not None:
        return parse_jsonl
    media_type = detect_media_type(item.uri, data[:HEAD_BYTES], item.media_type)
    if media_type is None:
        suffix = suffix_of(item.uri)
        kind = f"type {suffix!r}" if suffix else "a name without suffix"
        raise RefusedInputError(DropReason.UNSUPPORTED_TYPE, f"{kind} is not supported")
    if config.loader != "builtin" and media_type in LOADED:
        return find_loader(config.loader, media_type)
    parser = BUILTIN_PARSERS.get(media_type)
    if parser is None:  # sources open archives and tables themselves
        raise RefusedInputError(DropReason.UNSUPPORTED_TYPE, f"{media_type} inside another file")
    return parser
