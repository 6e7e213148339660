"""What a PDF's pages need before they are text: paragraphs, whole words, no running heads."""

from __future__ import annotations

import itertools
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

_LINE_END_HYPHEN = "\ufffe"
"""What pdfium writes for a hyphen at a line's end, and drops the line break."""
_BROKEN_WORD = re.compile(rf"([^\W\d_]+){_LINE_END_HYPHEN}([^\W\d_]+)")
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_FIRST = re.compile(r"\D*?(\d{1,6})(?!\d)")
_LAST = re.compile(r"(?<!\d)(\d{1,6})\D*\Z")
_ROMAN = re.compile(r"[ivxlcdm]+", re.IGNORECASE)
_PARAGRAPH_GAP = 1.4
"""Times the page's usual distance between lines; 1.2 to 1.3 occurs within paragraphs."""
_NUM_EDGE_LINES = 2
_MIN_PAGES = 4
_PAGE_WORDS = frozenset("page p pag pág página pagina seite s side sida strona str стр".split())
_MIN_SHARE = 0.6
"""Of the pages: left and right pages may carry different heads, and chapters' first pages none."""


def paragraphs(textpage: Any) -> str:
    """A page's text, with a blank line wherever the gap between lines says that one ends.

    Args:
        textpage: of pypdfium2.
    """
    text: str = textpage.get_text_range()
    if textpage.count_chars() != len(text):  # positions below count characters
        return text.replace("\r\n", "\n")
    lines = list(_lines(text))
    heights = [_baseline(textpage, start, line) for start, line in lines]
    gaps = [
        above - below if above is not None and below is not None else None
        for above, below in itertools.pairwise(heights)
    ]
    usual = [gap for gap in gaps if gap is not None and gap > 0]
    limit = statistics.median(usual) * _PARAGRAPH_GAP if usual else 0.0
    parts = [line for _, line in lines[:1]]
    for gap, (_, line) in zip(gaps, lines[1:], strict=True):
        is_new = gap is not None and (gap > limit or gap < -limit)
        parts.append(f"\n\n{line}" if is_new else f"\n{line}")
    return "".join(parts)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Each line and where it begins."""
    start = 0
    for line in text.split("\n"):
        yield start, line.rstrip("\r")
        start += len(line) + 1


def _baseline(textpage: Any, start: int, line: str) -> float | None:
    """Height of the line's first printed character; `None` for an empty line."""
    offset = len(line) - len(line.lstrip())
    if offset == len(line):
        return None
    return float(textpage.get_charbox(start + offset, loose=True)[1])


def join_hyphens(pages: Sequence[str]) -> list[str]:
    """Words that a line's end divides, made whole.

    The document decides whether the hyphen belongs to the word: if it has `well-known` elsewhere
    and not `wellknown`, the hyphen stays.
    """
    if not any(_LINE_END_HYPHEN in page for page in pages):
        return list(pages)
    words = {word.lower() for page in pages for word in _WORD.findall(page)}

    def whole(match: re.Match[str]) -> str:
        joined, hyphenated = match[1] + match[2], f"{match[1]}-{match[2]}"
        keeps_hyphen = hyphenated.lower() in words and joined.lower() not in words
        return hyphenated if keeps_hyphen else joined

    return [_BROKEN_WORD.sub(whole, page).replace(_LINE_END_HYPHEN, "-") for page in pages]


def strip_running_lines(pages: Sequence[str]) -> list[str]:
    """Pages without the lines at their edges that most of them repeat.

    A line also counts as repeated when it differs by a number that grows with the pages, as page
    numbers do. Fewer than four pages are left as they are.
    """
    if len(pages) < _MIN_PAGES:
        return list(pages)
    lines_by_page = [page.split("\n") for page in pages]
    edges_by_page = [list(_edge_lines(lines)) for lines in lines_by_page]
    counts: Counter[tuple[bool, str]] = Counter()
    for number, edges in enumerate(edges_by_page):
        counts.update({(top, s) for top, _, line in edges for s in _shapes(line, number)})
    repeated = {key for key, count in counts.items() if count >= _MIN_SHARE * len(pages)}
    kept = []
    for number, (lines, edges) in enumerate(zip(lines_by_page, edges_by_page, strict=True)):
        dropped = {
            index
            for top, index, line in edges
            if any((top, shape) in repeated for shape in _shapes(line, number))
        }
        text = "\n".join(line for index, line in enumerate(lines) if index not in dropped)
        kept.append(text.strip("\n"))
    return kept


def _edge_lines(lines: Sequence[str]) -> Iterator[tuple[bool, int, str]]:
    """Whether it is at the top, index, and text of the page's first and last lines."""
    indices = [index for index, line in enumerate(lines) if line.strip()]
    for is_top, edge in ((True, indices[:_NUM_EDGE_LINES]), (False, indices[-_NUM_EDGE_LINES:])):
        for index in edge:
            yield is_top, index, " ".join(lines[index].split())


def _shapes(line: str, page_index: int) -> Iterator[str]:
    """The line itself, and it with its first or last number counted from the page it is on.

    `Question 7`, one a page, is text: beside its page number a running line has several words, or
    none but `page`.
    """
    yield line
    if _ROMAN.fullmatch(line):
        yield "#roman"
    for match in filter(None, (_FIRST.match(line), _LAST.search(line))):
        before, after = line[: match.start(1)], line[match.end(1) :]
        rest = f"{before} {after}".strip(" -|.:/\u2013\u2014\u00b7")
        if len(rest.split()) != 1 or rest.lower() in _PAGE_WORDS:
            yield f"{before}#{int(match[1]) - page_index}{after}"
