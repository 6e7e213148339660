"""MDX is Markdown with JavaScript in it; this takes the JavaScript out and leaves the Markdown.

Syntax: https://mdxjs.com/docs/what-is-mdx/. Code blocks and code spans are left alone.
"""

from __future__ import annotations

import re

_CODE = re.compile(
    r"^(?P<fence>[ \t]*(?P<mark>`{3,}|~{3,}))[^\n]*\n.*?(?:^[ \t]*(?P=mark)[`~]*[ \t]*$|\Z)"
    r"|(?P<ticks>(?<!`)`+(?!`))(?:[^\n]|\n(?!\s*\n))*?(?<!`)(?P=ticks)(?!`)",
    re.DOTALL | re.MULTILINE,
)
_STATEMENT = re.compile(r"^(?:import|export)\b[^\n]*(?:\n(?![ \t]*$)[^\n]*)*\n?", re.MULTILINE)
"""An import or export and the lines below it, up to a blank line."""
_COMMENT = re.compile(r"\{\s*/\*.*?\*/\s*\}", re.DOTALL)
_MAX_TAG_CHARS = 10_000
"""Of one tag; else many "<" without an end would each be followed to the end of the file."""
_TAG_START = re.compile(r"</?(?:[A-Za-z][\w.:-]*|>)")


def strip_mdx(text: str) -> str:
    """`text` without imports, exports, comments and JSX tags; what the tags enclose stays."""
    parts, position = [], 0
    for code in _CODE.finditer(text):
        parts += [_strip(text[position : code.start()]), code[0]]
        position = code.end()
    return "".join([*parts, _strip(text[position:])])


def _strip(text: str) -> str:
    text = _COMMENT.sub("", _STATEMENT.sub("", text))
    parts, position = [], 0
    while (tag := _TAG_START.search(text, position)) is not None:
        end = tag.end() if tag[0].endswith(">") else _tag_end(text, tag.end())
        if end is None:  # a lone "<" is text
            end = tag.end()
            parts.append(text[position:end])
        else:
            parts.append(text[position : tag.start()])
        position = end
    return "".join([*parts, text[position:]])


def _tag_end(text: str, position: int) -> int | None:
    """Behind the `>` that closes the tag, past strings and braces in its attributes."""
    open_braces, limit = 0, min(len(text), position + _MAX_TAG_CHARS)
    while position < limit:
        character = text[position]
        if character == ">" and open_braces == 0:
            return position + 1
        if character in "\"'`":
            position = text.find(character, position + 1, limit)
            if position < 0:
                return None
        elif character == "{":
            open_braces += 1
        elif character == "}":
            open_braces -= 1
        position += 1
    return None
