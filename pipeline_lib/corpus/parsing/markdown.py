"""Markdown and MDX: front matter becomes metadata, and MDX loses its program parts.

The Markdown itself is kept as it was written, so quotes equal the source.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus.media_types import MARKDOWN
from pipeline_lib.corpus.parsing.base import ParsedDocument, Segment, name_of
from pipeline_lib.corpus.parsing.decoding import decode
from pipeline_lib.corpus.parsing.detection import suffix_of
from pipeline_lib.corpus.parsing.mdx import strip_mdx
from pipeline_lib.corpus.parsing.metadata import json_ready, language_code
from pipeline_lib.corpus.sources.base import SourceInput

_FRONT_MATTER = re.compile(
    r"\A\ufeff?(?P<mark>---|\+\+\+)[ \t]*\r?\n(?P<matter>.{0,65536}?)^(?P=mark)[ \t]*(?:\r?\n|\Z)",
    re.DOTALL | re.MULTILINE,
)
"""YAML between `---` (Jekyll, Docusaurus, MkDocs), TOML between `+++` (Hugo)."""


def parse_markdown(item: SourceInput, data: bytes, _: IngestConfig) -> Iterator[ParsedDocument]:
    """One segment: the text below the front matter."""
    decoded = decode(data, charset=item.metadata.get("charset"))
    front_matter, text = split_front_matter(decoded.text)
    if suffix_of(item.uri) == ".mdx":
        text = strip_mdx(text)
    title = front_matter.pop("title", None)
    language = language_code(front_matter.get("lang") or front_matter.get("language"))
    yield ParsedDocument(
        source_uri=item.uri,
        media_type=MARKDOWN,
        segments=(Segment(text=text),),
        is_markdown=True,
        title=title if isinstance(title, str) and title.strip() else item.title,
        name=name_of(item.uri),
        encoding=decoded.encoding,
        language=language,
        metadata=json_ready(front_matter),
    )


def split_front_matter(text: str) -> tuple[dict[str, Any], str]:
    """The front matter and the text below it.

    What stands between the marks but is no mapping is text: two horizontal rules look the same.
    """
    match = _FRONT_MATTER.match(text)
    if match is None:
        return {}, text
    load = _load_yaml if match["mark"] == "---" else _load_toml
    values = load(match["matter"])
    if not isinstance(values, dict):
        return {}, text
    return values, text[match.end() :]


def _load_yaml(matter: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(matter)
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: 2024-13-45 as a date
        return None


def _load_toml(matter: str) -> Any:
    import tomllib

    try:
        return tomllib.loads(matter)
    except (tomllib.TOMLDecodeError, RecursionError):
        return None
