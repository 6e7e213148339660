"""Jupyter notebooks (nbformat 3 and 4): one segment a cell.

Markdown cells as they are, code fenced with the kernel's language. Of outputs only short plain text
is kept, as it is often the answer that the text speaks of; pictures, HTML, tracebacks and long logs
are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus.drops import DropReason, RefusedInputError
from pipeline_lib.corpus.media_types import NOTEBOOK
from pipeline_lib.corpus.parsing.base import ParsedDocument, Segment, name_of
from pipeline_lib.corpus.parsing.decoding import decode
from pipeline_lib.corpus.parsing.metadata import json_ready
from pipeline_lib.corpus.sources.base import SourceInput

_MAX_OUTPUT_CHARS = 500


def parse_notebook(item: SourceInput, data: bytes, _: IngestConfig) -> Iterator[ParsedDocument]:
    """Cells with text, labelled by their number from 1."""
    decoded = decode(data)
    notebook = _load(decoded.text)
    metadata = _mapping(notebook.get("metadata"))
    language = _language(metadata)
    segments = []
    for number, cell in enumerate(_cells(notebook), start=1):
        text = "\n\n".join(_cell_blocks(cell, language))
        if text.strip():
            segments.append(Segment(text=text, kind="cell", label=str(number)))
    if not segments:
        raise RefusedInputError(DropReason.EMPTY, "a notebook without text in its cells")
    title = metadata.get("title")
    yield ParsedDocument(
        source_uri=item.uri,
        media_type=NOTEBOOK,
        segments=tuple(segments),
        is_markdown=True,
        title=title if isinstance(title, str) and title.strip() else item.title,
        name=name_of(item.uri),
        encoding=decoded.encoding,
        metadata=json_ready({"programming_language": language, "authors": metadata.get("authors")}),
    )


def _load(text: str) -> Mapping[str, Any]:
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RefusedInputError(DropReason.BROKEN_FILE, f"not a notebook: {error}") from error
    if not isinstance(notebook, dict) or not ("cells" in notebook or "worksheets" in notebook):
        raise RefusedInputError(DropReason.BROKEN_FILE, "not a notebook: it has no cells")
    return notebook


def _cells(notebook: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    sheets = [notebook, *_list(notebook.get("worksheets"))]
    for sheet in sheets:
        yield from map(_mapping, _list(_mapping(sheet).get("cells")))


def _language(metadata: Mapping[str, Any]) -> str:
    for name, key in (("kernelspec", "language"), ("language_info", "name")):
        language = _mapping(metadata.get(name)).get(key)
        if isinstance(language, str) and language.isprintable() and " " not in language:
            return language.lower()
    return "python"


def _cell_blocks(cell: Mapping[str, Any], language: str) -> Iterator[str]:
    source = _text(cell.get("source", cell.get("input")))
    kind = cell.get("cell_type")
    if kind == "heading":  # nbformat 3
        level = cell.get("level")
        marks = "#" * level if isinstance(level, int) and 1 <= level <= 6 else "#"
        yield f"{marks} {source}"
    elif kind != "code":
        yield source
    elif source.strip():
        yield _fenced(source, language)
        for output in map(_mapping, _list(cell.get("outputs"))):
            text = _text(output.get("text", _mapping(output.get("data")).get("text/plain")))
            if text.strip() and len(text) <= _MAX_OUTPUT_CHARS and not _is_picture(output):
                yield _fenced(text, "text")


def _is_picture(output: Mapping[str, Any]) -> bool:
    """Its plain text is only the name of an object: `<Figure size 640x480>`."""
    return any(str(key).startswith("image/") for key in _mapping(output.get("data")))


def _fenced(text: str, language: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text.strip(chr(10))}\n{fence}"


def _text(value: object) -> str:
    """Sources are a string or a list of lines."""
    if isinstance(value, list):
        return "".join(line for line in value if isinstance(line, str))
    return value if isinstance(value, str) else ""


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
