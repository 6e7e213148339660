"""From parsed text to a document of the corpus: redacted, cleaned, titled, filtered."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace

from pipeline_lib.config.corpus import FilterConfig
from pipeline_lib.corpus.drops import DropReason, make_drop
from pipeline_lib.corpus.filters import apply_filters, redact
from pipeline_lib.corpus.outline import assemble
from pipeline_lib.corpus.parsing.base import ParsedDocument
from pipeline_lib.corpus.schema import Document, Drop
from pipeline_lib.corpus.sources.base import SourceInput

_DOCUMENT_ID_LENGTH = 32


def document_id(source_uri: str) -> str:
    """32 hex digits of the URI's SHA-256."""
    return hashlib.sha256(source_uri.encode("utf-8", "backslashreplace")).hexdigest()[
        :_DOCUMENT_ID_LENGTH
    ]


def build_document(
    parsed: ParsedDocument, item: SourceInput, config: FilterConfig, *, ordinal: int = 0
) -> Document | Drop:
    """The document, or why there is none: no text is left, or a filter refused it.

    Args:
        parsed: what a parser found.
        item: the input it was found in.
        config: what to redact and what to refuse.
        ordinal: its position among the documents of the input.
    """
    parsed, redactions = _redacted(parsed, config)
    assembled = assemble(parsed)
    if not assembled.text.strip():
        num_chars = sum(len(segment.text) for segment in parsed.segments)
        detail = f"no text is left of {num_chars} characters after cleaning"
        return make_drop(parsed.source_uri, DropReason.EMPTY, detail)
    document = Document(
        document_id=document_id(parsed.source_uri),
        source_uri=parsed.source_uri,
        title=assembled.title,
        media_type=parsed.media_type,
        text=assembled.text,
        content_sha256=hashlib.sha256(assembled.text.encode()).hexdigest(),
        input_uri=item.uri,
        input_sha256=item.content_sha256,
        language=parsed.language,
        metadata_json=_json({**item.metadata, **parsed.metadata}),
        sections=assembled.sections,
        input_ordinal=ordinal,
        encoding=parsed.encoding,
    )
    outcome = apply_filters(document, config)
    if isinstance(outcome.document, Drop):
        return outcome.document
    return replace(outcome.document, redactions_json=_json(redactions + outcome.redactions))


def _redacted(parsed: ParsedDocument, config: FilterConfig) -> tuple[ParsedDocument, Counter[str]]:
    """Before any offset is counted, so that offsets count in the text that is kept."""
    redactions: Counter[str] = Counter()
    segments = []
    for segment in parsed.segments:
        text, found = redact(segment.text, config)
        redactions += found
        segments.append(replace(segment, text=text))
    return replace(parsed, segments=tuple(segments)), redactions


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
