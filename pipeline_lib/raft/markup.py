r"""Text that looks like our markers, or like a chat template's, made harmless and brought back.

Documents and questions are written by anybody. Where they contain `</document>`, `<quote …>` or
`<|im_end|>`, a backslash goes behind the opening bracket; where such a backslash is there already,
one more does. So no text can close its document, open a quote or become a control token, text
without markers stays as it is, and `unescape(escape(text)) == text` for every text.

    </document>    becomes   <\/document>
    <|im_start|>   becomes   <\|im_start|>
    <\quote        becomes   <\\quote
"""

from __future__ import annotations

import re

_OWN = ("document", "quote", "answer")
_CONTROL_TOKENS = (
    "s",
    "bos",
    "eos",
    "pad",
    "unk",
    "mask",
    "sep",
    "cls",
    "start_of_turn",
    "end_of_turn",
    "think",
    "tool_call",
    "tool_response",
    r"extra_id_\d+",
    r"unused\d+",
    "SYS",
    "INST",
)
"""Names in angle or square brackets that tokenizers of common model families turn into one token;
those between bars (`<|…|>`) are caught by the bar."""

_SENSITIVE = rf"(?=[|\uff5c]|\s*/?\s*(?:{'|'.join((*_OWN, *_CONTROL_TOKENS))})\b)"
_PLAIN = re.compile(rf"([<\[])(\\*){_SENSITIVE}", re.IGNORECASE)
_ESCAPED = re.compile(rf"([<\[])\\(\\*){_SENSITIVE}", re.IGNORECASE)


def escape(text: str) -> str:
    """`text` with every marker made harmless."""
    return _PLAIN.sub(r"\1\\\2", text)


def unescape(text: str) -> str:
    """The inverse of `escape`; harmless on any other text."""
    if "\\" not in text:  # almost always, and the pattern is slow to find that out
        return text
    return _ESCAPED.sub(r"\1\2", text)
