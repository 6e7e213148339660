"""Web pages: the main content as Markdown, without navigation and boilerplate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus.drops import DropReason, RefusedInputError
from pipeline_lib.corpus.media_types import HTML
from pipeline_lib.corpus.parsing.base import ParsedDocument, Segment, name_of
from pipeline_lib.corpus.parsing.decoding import decode
from pipeline_lib.corpus.parsing.metadata import json_ready, language_code
from pipeline_lib.corpus.sources.base import SourceInput

_EMPHASIS = ("b", "strong", "i", "em", "u")
_META_NAMES = ("description", "author", "keywords", "date")


def parse_html(item: SourceInput, data: bytes, _: IngestConfig) -> Iterator[ParsedDocument]:
    """One segment: the main content, without emphasis, whose asterisks would end up in quotes."""
    import trafilatura

    decoded = decode(data, is_html=True, charset=item.metadata.get("charset"))
    is_page = "<html" in decoded.text.lower()
    page = decoded.text if is_page else f"<html><body>{decoded.text}</body></html>"
    tree = trafilatura.load_html(page)
    if tree is None:
        raise RefusedInputError(DropReason.NO_MAIN_CONTENT, "not an HTML page")
    title, language, metadata = tree.findtext(".//title"), tree.get("lang"), _metadata(tree)
    for element in list(tree.iter(*_EMPHASIS)):
        element.drop_tag()
    text = trafilatura.extract(
        tree, output_format="markdown", include_comments=False, include_tables=True
    )
    if not text:
        raise RefusedInputError(DropReason.NO_MAIN_CONTENT, "no text beside navigation was found")
    yield ParsedDocument(
        source_uri=item.uri,
        media_type=HTML,
        segments=(Segment(text=text),),
        is_markdown=True,
        title=title or item.title,
        name=name_of(item.uri),
        encoding=decoded.encoding,
        language=language_code(language),
        metadata=metadata,
    )


def _metadata(tree: Any) -> dict[str, Any]:
    found: dict[str, str] = {}
    for element in tree.iter("meta"):
        name = (element.get("name") or "").lower()
        if name in _META_NAMES:
            found.setdefault(name, " ".join((element.get("content") or "").split()))
    return json_ready(found)
