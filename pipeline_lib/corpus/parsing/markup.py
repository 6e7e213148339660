"""HTML elements as Markdown, all of them: for pages that hold nothing but their text.

Walks the tree by events, not by recursion, so nesting costs no stack. Emphasis is left out, as its
asterisks would end up inside quotes, and so are the targets of links.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from pipeline_lib.corpus.parsing.tables import markdown_table

_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BLOCKS = frozenset(
    "address article aside blockquote body dd details div dl dt fieldset figcaption figure footer "
    "form header hr main nav ol p section summary table tbody thead tr ul".split()
)
_SKIPPED = frozenset(
    "head iframe noscript object script style svg template button select textarea".split()
)
_SPACE = re.compile(r"\s+")
_CODE_LANGUAGE = re.compile(r"\blanguage-([\w+#-]+)")


def to_markdown(root: Any) -> str:
    """The text below an lxml element."""
    from lxml import etree

    writer = _Writer()
    walker = etree.iterwalk(root, events=("start", "end"))
    for event, element in walker:
        tag = _local_name(element)
        if event == "start":
            if tag is None or tag in _SKIPPED:
                walker.skip_subtree()
                continue
            writer.start(tag, element)
            writer.text(element.text)
        else:
            if tag is not None and tag not in _SKIPPED:
                writer.end(tag)
            if element is not root:
                writer.text(element.tail)
    return writer.finish()


def _local_name(element: Any) -> str | None:
    """The tag without its namespace, lower case; `None` for comments and the like."""
    return element.tag.rpartition("}")[2].lower() if isinstance(element.tag, str) else None


@dataclass
class _Writer:
    """Collects inline text, and turns it into a block where a block ends."""

    blocks: list[str] = field(default_factory=list)
    inline: list[str] = field(default_factory=list)
    lists: list[int] = field(default_factory=list)
    """Open lists: the next number, or 0 for bullets."""
    mark: str = ""
    """What the next block begins with: a list item's mark, a heading's."""
    ends_with_item: bool = False
    """Whether the last block is a list."""
    quote_depth: int = 0
    pre_depth: int = 0
    code_language: str = ""
    table_depth: int = 0
    rows: list[list[str]] = field(default_factory=list)

    def start(self, tag: str, element: Any) -> None:
        if self.table_depth:
            self._start_in_table(tag)
        elif tag == "table":
            self._flush()
            self.table_depth, self.rows = 1, []
        elif tag == "pre":
            self._flush()
            self.pre_depth += 1
            self.code_language = ""
        elif tag in _HEADINGS:
            self._flush()
            self.mark = "#" * _HEADINGS[tag] + " "
        elif tag in ("ul", "ol"):
            self._flush()
            self.lists.append(_first_number(element) if tag == "ol" else 0)
        elif tag == "li":
            self._flush()
            self.mark = self._item_mark()
        elif tag in _BLOCKS:
            self._flush()
            self.quote_depth += tag == "blockquote"
        if tag == "br":
            self.inline.append("\n")
        elif tag == "img" and (alternative := element.get("alt")):
            self.inline.append(f" {alternative} ")
        elif tag == "code":
            self._start_code(element)

    def end(self, tag: str) -> None:
        if tag == "code" and not self.pre_depth:
            self.inline.append("`")
        if self.table_depth:
            self._end_in_table(tag)
        elif tag == "pre" and self.pre_depth:
            self.pre_depth -= 1
            if not self.pre_depth:
                self._emit_code()
        elif tag in _HEADINGS or tag == "li" or tag in _BLOCKS:
            self._flush()
            if tag in ("ul", "ol") and self.lists:
                self.lists.pop()
            if tag == "blockquote":
                self.quote_depth -= 1
            self.mark = ""

    def text(self, text: str | None) -> None:
        if text:
            self.inline.append(text if self.pre_depth else _SPACE.sub(" ", text))

    def finish(self) -> str:
        self._flush()
        return "\n\n".join(self.blocks)

    def _start_code(self, element: Any) -> None:
        if not self.pre_depth:
            self.inline.append("`")
        elif match := _CODE_LANGUAGE.search(element.get("class") or ""):
            self.code_language = match[1]

    def _start_in_table(self, tag: str) -> None:
        if tag == "table":
            self.table_depth += 1
        elif self.table_depth > 1:
            self.inline.append(" ")  # a table inside a cell is text of that cell
        elif tag == "tr":
            self.rows.append([])
            self.inline = []
        elif tag in _BLOCKS or tag in ("li", "td", "th", "caption"):
            self.inline.append(" ")

    def _end_in_table(self, tag: str) -> None:
        if tag == "table":
            self.table_depth -= 1
            if not self.table_depth:
                self.inline = []
                self._append(markdown_table(self.rows))
        elif self.table_depth > 1:
            self.inline.append(" ")
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("".join(self.inline))
            self.inline = []
        elif tag == "caption":
            self._append(_SPACE.sub(" ", "".join(self.inline)).strip())
            self.inline = []

    def _item_mark(self) -> str:
        if not self.lists:
            return "- "
        indent, number = "  " * (len(self.lists) - 1), self.lists[-1]
        if number:
            self.lists[-1] += 1
        return f"{indent}{number}. " if number else f"{indent}- "

    def _flush(self) -> None:
        if self.pre_depth:
            return
        lines = "".join(self.inline).split("\n")
        self.inline = []
        text = "\n".join(" ".join(line.split()) for line in lines).strip()
        if not text.strip("`"):
            return
        if self.mark.startswith("#"):
            text = " ".join(text.split())
        self._append(self.mark + text, is_item=bool(self.mark) and not self.mark.startswith("#"))
        self.mark = ""

    def _emit_code(self) -> None:
        code = "".join(self.inline).strip("\n")
        self.inline = []
        if code.strip():
            fence = "```" if "```" not in code else "````"
            self._append(f"{fence}{self.code_language}\n{code}\n{fence}")

    def _append(self, block: str, *, is_item: bool = False) -> None:
        """Items that follow one another are one block, so that lists stay together."""
        if not block:
            return
        if self.quote_depth > 0:
            block = "\n".join(f"> {line}".rstrip() for line in block.split("\n"))
        if is_item and self.ends_with_item:
            self.blocks[-1] += f"\n{block}"
        else:
            self.blocks.append(block)
        self.ends_with_item = is_item


def _first_number(element: Any) -> int:
    start = element.get("start") or "1"
    return int(start) if start.isdecimal() and 0 < int(start) < 10**6 else 1
