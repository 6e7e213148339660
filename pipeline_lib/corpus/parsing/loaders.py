"""Other programs that read documents, behind the same interface as the built-in parsers.

A loader is a `Parser`. Packages offer theirs as an entry point of the group `raftline.loaders`; for
docling and unstructured there are thin adapters here, which need the extra of that name.
"""

from __future__ import annotations

import importlib
import io
import itertools
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any

from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus.drops import DropReason, RefusedInputError
from pipeline_lib.corpus.media_types import DOCX, HTML, PDF, PPTX, XLSX
from pipeline_lib.corpus.parsing.base import ParsedDocument, Parser, Segment, name_of
from pipeline_lib.corpus.sources.base import SourceInput
from pipeline_lib.errors import ConfigError

ENTRY_POINT_GROUP = "raftline.loaders"
LOADED = frozenset({PDF, DOCX, PPTX, XLSX, HTML})
"""What loaders are asked to read; the rest has no layout to recover."""
_SUFFIXES = {PDF: ".pdf", DOCX: ".docx", PPTX: ".pptx", XLSX: ".xlsx", HTML: ".html"}
_PLACES = {PPTX: "slide", XLSX: "sheet"}


def find_loader(name: str, media_type: str) -> Parser:
    """The loader of that name: an installed package's, else the adapter for it.

    Args:
        name: as in `IngestConfig.loader`, not `builtin`.
        media_type: one of `LOADED`; adapters must know it.
    """
    for entry_point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        loader: Parser = entry_point.load()
        return loader
    adapter = _ADAPTERS[name]

    def load(item: SourceInput, data: bytes, config: IngestConfig) -> Iterator[ParsedDocument]:
        segments = tuple(s for s in adapter(item, data, media_type, config) if s.text.strip())
        if not segments:
            raise RefusedInputError(DropReason.NO_TEXT, f"{name} found no text in it")
        yield ParsedDocument(
            source_uri=item.uri,
            media_type=media_type,
            segments=segments,
            is_markdown=True,
            title=item.title,
            name=name_of(item.uri),
        )

    return load


def _import(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"ingest.loader is {extra!r}, but {module} cannot be imported: {error}",
            hint=f"Install it on every worker: pip install 'raftline[{extra}]'.",
        ) from error


def _load_with_docling(
    item: SourceInput, data: bytes, media_type: str, config: IngestConfig
) -> Iterator[Segment]:
    """A segment per page, where the format has pages."""
    stream = _import("docling.datamodel.base_models", "docling").DocumentStream
    errors = _import("docling.exceptions", "docling")
    converter = _import("docling.document_converter", "docling").DocumentConverter()
    source = stream(name=name_of(item.uri) + _SUFFIXES[media_type], stream=io.BytesIO(data))
    try:
        result = converter.convert(source, max_num_pages=config.limits.max_pages)
    except errors.ConversionError as error:
        raise RefusedInputError(DropReason.BROKEN_FILE, f"docling: {error}") from error
    document = result.document
    if not document.pages:
        yield Segment(text=document.export_to_markdown())
    for number in sorted(document.pages):
        text = document.export_to_markdown(page_no=number)
        yield Segment(text=text, kind=_PLACES.get(media_type, "page"), label=str(number))


def _load_with_unstructured(
    item: SourceInput, data: bytes, media_type: str, _: IngestConfig
) -> Iterator[Segment]:
    """A segment per page number that the elements carry."""
    partition = _import("unstructured.partition.auto", "unstructured").partition
    elements = partition(
        file=io.BytesIO(data),
        metadata_filename=name_of(item.uri) + _SUFFIXES[media_type],
        content_type=media_type,
    )
    for number, group in itertools.groupby(elements, lambda e: e.metadata.page_number):
        text = "\n\n".join(map(_element_text, group))
        if number is None:
            yield Segment(text=text)
        else:
            yield Segment(text=text, kind=_PLACES.get(media_type, "page"), label=str(number))


def _element_text(element: Any) -> str:
    if element.category == "Title":
        depth = min(getattr(element.metadata, "category_depth", None) or 0, 5)
        return f"{'#' * (depth + 1)} {element.text}"
    return f"- {element.text}" if element.category == "ListItem" else str(element.text)


_Adapter = Callable[[SourceInput, bytes, str, IngestConfig], Iterator[Segment]]
_ADAPTERS: Mapping[str, _Adapter] = {
    "docling": _load_with_docling,
    "unstructured": _load_with_unstructured,
}
