"""From parsed segments to one text and its outline: headings and places, with exact offsets.

Markdown headings are found by markdown-it-py's block rules (so a `#` in a code block is none);
those inside lists and quotations are not the document's own and are left out. In other prose a
heading is a line that is underlined, as in reStructuredText, where the order in which the styles
of underlining appear gives their levels. Source code has no headings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from pipeline_lib.corpus.cleaning import clean_text, clean_title
from pipeline_lib.corpus.media_types import SOURCE_CODE
from pipeline_lib.corpus.parsing.base import ParsedDocument
from pipeline_lib.corpus.schema import Section

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

HEADING = "heading"
ADORNMENT = re.compile(r"([=\-`:'\"~^_*+#<>.])\1{2,}")
"""A line that under- or overlines a heading; three characters or more."""

_JOINT = "\n\n"
_MAX_LEVEL = 6
_MAX_HEADING_CHARS = 1_000
"""Beyond it the rest of a heading is not looked at; a title has at most 200 anyway."""
_FRONT_MATTER = re.compile(r"---\n(?P<fields>[\w\"'-]+[ \t]*:(?:.*\n)+?)(?:---|\.\.\.)(?:\n|\Z)")
_FRONT_MATTER_TITLE = re.compile(
    r"^title:[ \t]*(?P<quote>[\"']?)(?P<title>.+?)(?P=quote)$", re.MULTILINE
)
_ANCHOR = re.compile(r"\s*\{#[\w.:-]+\}$")
"""`## Title {#anchor}`, as static site generators write it."""
_BLOCK_RULES = (
    *("code", "fence", "blockquote", "hr", "list", "html_block", "heading", "lheading"),
    "paragraph",
)


@dataclass(frozen=True, kw_only=True)
class AssembledText:
    """The cleaned text of a document, offsets of chunks and quotes count in it."""

    text: str
    sections: tuple[Section, ...]
    """Headings and places by start; where both start at once, the place comes first."""
    title: str
    """What the source calls it, else its first heading, else its name."""


def assemble(parsed: ParsedDocument) -> AssembledText:
    """Clean the segments of `parsed`, join them by a blank line, and find their headings.

    Segments without text leave nothing behind, not even a place.
    """
    filled = [
        (segment, text) for segment in parsed.segments if (text := clean_text(segment.text)).strip()
    ]
    texts = [text for _, text in filled]
    starts = accumulate((len(text) + len(_JOINT) for text in texts[:-1]), initial=0)
    styles: dict[tuple[str, bool], int] = {}
    sections: list[Section] = []
    for (segment, text), start in zip(filled, starts, strict=False):
        if segment.kind:
            sections.append(Section(start=start, kind=segment.kind, label=segment.label))
        sections.extend(_headings(parsed, text, start, styles))
    declared = _front_matter_title(texts[0]) if texts and parsed.is_markdown else None
    first = next((section.label for section in sections if section.kind == HEADING), None)
    titles = filter(None, (parsed.title, declared, first, parsed.name))
    return AssembledText(
        text=_JOINT.join(texts),
        sections=tuple(sections),
        title=next((title for title in map(clean_title, titles) if title), ""),
    )


def _headings(
    parsed: ParsedDocument, text: str, offset: int, styles: dict[tuple[str, bool], int]
) -> Iterator[Section]:
    if parsed.is_markdown:
        found = _markdown_headings(text)
    elif parsed.media_type == SOURCE_CODE:
        return
    else:
        found = _underlined_headings(text, styles)
    for start, level, label in found:
        if cleaned := clean_title(label[:_MAX_HEADING_CHARS]):
            yield Section(start=offset + start, kind=HEADING, label=cleaned, level=level)


def _line_starts(lines: Sequence[str]) -> list[int]:
    return list(accumulate((len(line) + 1 for line in lines), initial=0))


def _front_matter_title(text: str) -> str | None:
    front_matter = _FRONT_MATTER.match(text)
    declared = _FRONT_MATTER_TITLE.search(front_matter["fields"]) if front_matter else None
    return declared["title"] if declared else None


def _markdown_headings(text: str) -> Iterator[tuple[int, int, str]]:
    """Start, level and plain text of each top-level heading."""
    front_matter = _FRONT_MATTER.match(text)
    body = front_matter.end() if front_matter else 0
    markdown = _markdown_parser()
    starts = _line_starts(text[body:].split("\n"))
    tokens: list[Token] = []
    markdown.block.parse(text[body:], markdown, {}, tokens)
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open" and opening.level == 0 and opening.map:
            label = _ANCHOR.sub("", inline.content[:_MAX_HEADING_CHARS])
            yield (
                body + starts[opening.map[0]],
                int(opening.tag.removeprefix("h")),
                _plain(markdown, label),
            )


@cache
def _markdown_parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark")
    parser.block.ruler.enableOnly(_BLOCK_RULES)
    return parser


def _plain(markdown: MarkdownIt, label: str) -> str:
    """A heading without its markup: the text of links, the alternative text of images."""
    inline = markdown.parseInline(label)[0]
    return "".join(
        " " if child.type in ("softbreak", "hardbreak") else child.content
        for child in inline.children or ()
        if child.type != "html_inline"
    )


def _underlined_headings(
    text: str, styles: dict[tuple[str, bool], int]
) -> Iterator[tuple[int, int, str]]:
    """Start (that of the overline if there is one), level and text of each underlined line.

    A heading is at most as long as its underline and has a blank line or an overline above.
    """
    lines = text.split("\n")
    starts = _line_starts(lines)
    for number in range(1, len(lines)):
        title, underline = lines[number - 1].strip(), lines[number]
        if not (len(underline) >= len(title) > 0 and _is_adornment(underline, title)):
            continue
        above = lines[number - 2] if number > 1 else ""
        is_overlined = above == underline
        if is_overlined or not above.strip():
            style = (underline[0], is_overlined)
            level = styles.setdefault(style, min(len(styles) + 1, _MAX_LEVEL))
            yield starts[number - 1 - is_overlined], level, title


def _is_adornment(underline: str, title: str) -> bool:
    return bool(ADORNMENT.fullmatch(underline)) and not ADORNMENT.fullmatch(title)
