"""The first heading of a text, for a title."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from pipeline_lib.corpus.sources import HTML, MARKDOWN

_UNDERLINE = re.compile(r"([=\-`:'\"~^_*+#<>.])\1{2,}")
"""reStructuredText section adornment; three characters or more."""
_SETEXT = re.compile(r" {0,3}(=+|-{2,})")
_ATX = re.compile(r" {0,3}#{1,6}[ \t]+(?P<title>.*?)[ \t]*#*")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_FRONT_MATTER_TITLE = re.compile(r"title:\s*(?P<quote>[\"']?)(?P<title>.+?)(?P=quote)\s*")


def first_heading(text: str, media_type: str) -> str | None:
    """The first heading of cleaned `text`, or `None`.

    Markdown (and HTML, which is kept as Markdown): the front matter's `title`, else the first
    heading outside code. Other text: the first line that is underlined at least as long as it is.
    """
    lines = text.split("\n")
    if media_type in (MARKDOWN, HTML):
        return _markdown_heading(lines)
    for line, underline in pairwise(lines):
        title = line.strip()
        if len(underline) >= len(title) > 0 and _is_adornment(underline, title):
            return title
    return None


def _is_adornment(underline: str, title: str) -> bool:
    return bool(_UNDERLINE.fullmatch(underline)) and not _UNDERLINE.fullmatch(title)


def _markdown_heading(lines: Sequence[str]) -> str | None:
    body = 0
    if lines[0] == "---" and "---" in lines[1:]:
        body = lines.index("---", 1) + 1
        for line in lines[1:body]:
            if declared := _FRONT_MATTER_TITLE.fullmatch(line):
                return declared["title"]
    fence: str | None = None
    previous = ""
    for line in lines[body:]:
        mark = _FENCE.match(line)
        if mark and fence is None:
            fence = mark[1]
        elif mark and fence is not None and mark[1].startswith(fence):
            fence = None
        elif fence is None:
            atx = _ATX.fullmatch(line)
            if atx and atx["title"]:
                return atx["title"]
            if previous and _SETEXT.fullmatch(line):
                return previous
        previous = "" if mark or fence else line.strip()
    return None
