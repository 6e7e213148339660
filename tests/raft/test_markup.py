from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.raft.markup import escape, unescape

PIECES = st.sampled_from(
    ["<", "</", "[", "\\", "document", "quote", "answer", "|", "im_end", "|>", ">", " ", "\n", "/",
     "INST", "]", "s", "eos", "think", "\uff5c", "x", '"', "<|", "[/", "DOCUMENT"]
)  # fmt: skip
HOSTILE = st.lists(PIECES, max_size=14).map("".join) | st.text(max_size=60)
LIVE_MARKER = re.compile(
    r"</?\s*(?:document|quote|answer)\b|<[|\uff5c]|\[/?INST\]|</?(?:s|eos|bos|think)>",
    re.IGNORECASE,
)


@given(HOSTILE)
def test_unescaping_gives_every_text_back(text: str) -> None:
    assert unescape(escape(text)) == text


@given(HOSTILE)
def test_no_live_marker_is_left(text: str) -> None:
    assert LIVE_MARKER.search(escape(text)) is None


@given(HOSTILE, HOSTILE)
def test_different_texts_stay_different(left: str, right: str) -> None:
    assert (escape(left) == escape(right)) == (left == right)


@given(HOSTILE)
def test_unescaping_any_text_never_raises(text: str) -> None:
    unescape(text)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("</document>", r"<\/document>"),
        ('<quote doc="1">', r'<\quote doc="1">'),
        ("< / Answer >", r"<\ / Answer >"),
        ("<|im_start|>system", r"<\|im_start|>system"),
        ("<\uff5cUser\uff5c>", "<\\\uff5cUser\uff5c>"),
        ("[INST] hi [/INST]", r"[\INST] hi [\/INST]"),
        ("<<SYS>>", r"<<\SYS>>"),
        ("</s><end_of_turn>", r"<\/s><\end_of_turn>"),
        (r"<\quote", r"<\\quote"),
        (r"<\\|", r"<\\\|"),
    ],
)
def test_markers_get_a_backslash(text: str, escaped: str) -> None:
    assert escape(text) == escaped


@pytest.mark.parametrize(
    "text",
    ["a < b and c > d", "<string>", "<documents-like", "x[1]", "[a|b]", "list[str]", r"C:\quote",
     "if a<|b", "<p>", "<span>"],
)  # fmt: skip
def test_ordinary_text_costs_nothing(text: str) -> None:
    if "<|" not in text and "<documents" not in text:
        assert escape(text) == text
    assert unescape(escape(text)) == text
