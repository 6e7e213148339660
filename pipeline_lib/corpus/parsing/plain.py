"""Text that is kept as it was written: plain text, reStructuredText, source code."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus.media_types import PLAIN_TEXT, RESTRUCTURED_TEXT, SOURCE_CODE
from pipeline_lib.corpus.parsing.base import ParsedDocument, Segment, name_of
from pipeline_lib.corpus.parsing.decoding import decode
from pipeline_lib.corpus.parsing.detection import suffix_of
from pipeline_lib.corpus.parsing.languages import LANGUAGE_BY_SUFFIX
from pipeline_lib.corpus.sources.base import SourceInput


def parse_plain(item: SourceInput, data: bytes, _: IngestConfig) -> Iterator[ParsedDocument]:
    """One segment: the decoded text."""
    yield _document(item, data, PLAIN_TEXT)


def parse_rst(item: SourceInput, data: bytes, _: IngestConfig) -> Iterator[ParsedDocument]:
    """One segment: the decoded text, markup included, so that quotes equal the source."""
    yield _document(item, data, RESTRUCTURED_TEXT)


def parse_source_code(item: SourceInput, data: bytes, _: IngestConfig) -> Iterator[ParsedDocument]:
    """One segment: the code; `metadata["programming_language"]` by the file's suffix."""
    language = LANGUAGE_BY_SUFFIX.get(suffix_of(item.uri))
    metadata = {"programming_language": language} if language else {}
    yield _document(item, data, SOURCE_CODE, metadata)


def _document(
    item: SourceInput, data: bytes, media_type: str, metadata: dict[str, str] | None = None
) -> ParsedDocument:
    decoded = decode(data, charset=item.metadata.get("charset"))
    return ParsedDocument(
        source_uri=item.uri,
        media_type=media_type,
        segments=(Segment(text=decoded.text),),
        title=item.title,
        name=name_of(item.uri),
        encoding=decoded.encoding,
        metadata=metadata or {},
    )
