"""From parsed text to the documents of a corpus: cleaned, titled, each text once."""

from __future__ import annotations

import hashlib

from pipeline_lib.corpus.cleaning import clean_text, clean_title
from pipeline_lib.corpus.drops import DropReason
from pipeline_lib.corpus.headings import first_heading
from pipeline_lib.corpus.parsers import ParsedDocument
from pipeline_lib.corpus.schema import Document, Drop

_DOCUMENT_ID_LENGTH = 32


def document_id(source_uri: str) -> str:
    """32 hex digits of the URI's SHA-256."""
    return hashlib.sha256(source_uri.encode()).hexdigest()[:_DOCUMENT_ID_LENGTH]


def build_document(parsed: ParsedDocument) -> Document | Drop:
    """Clean a parsed document; without any text left it is dropped as `empty`."""
    text = clean_text(parsed.text)
    if not text.strip():
        return Drop(
            source_uri=parsed.source_uri,
            reason=DropReason.EMPTY.value,
            detail=f"no text is left of {len(parsed.text)} characters after cleaning",
        )
    titles = (parsed.title, first_heading(text, parsed.media_type), parsed.name)
    return Document(
        document_id=document_id(parsed.source_uri),
        source_uri=parsed.source_uri,
        title=next((title for title in map(clean_title, filter(None, titles)) if title), ""),
        media_type=parsed.media_type,
        text=text,
        content_sha256=hashlib.sha256(text.encode()).hexdigest(),
    )


class Deduplicator:
    """Lets each text and each URI through once. Keeps hashes and URIs, not texts."""

    def __init__(self) -> None:
        self._uri_by_content: dict[str, str] = {}
        self._uris: set[str] = set()

    def refuse(self, document: Document) -> Drop | None:
        """The drop, if an earlier document has this text or this URI; else remember it."""
        kept_uri = self._uri_by_content.get(document.content_sha256)
        if kept_uri is not None:
            return Drop(
                source_uri=document.source_uri,
                reason=DropReason.DUPLICATE.value,
                detail=f"its text equals that of {kept_uri}, which was kept",
            )
        if document.source_uri in self._uris:
            return Drop(
                source_uri=document.source_uri,
                reason=DropReason.DUPLICATE_URI.value,
                detail="an earlier record has this URI with another text; give each record an 'id'",
            )
        self._uri_by_content[document.content_sha256] = document.source_uri
        self._uris.add(document.source_uri)
        return None
