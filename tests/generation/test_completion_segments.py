"""Segments: equal content gives equal bytes, and damage shows."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.generation.base import Completion, GenerationParams, Prompt, Score
from pipeline_lib.generation.completion_segments import (
    BadSegmentError,
    completion_key,
    decode_result,
    decode_segment,
    encode_result,
    encode_segment,
    is_segment,
    score_key,
)

A, B = "a" * 64, "b" * 64
TEXTS = st.text(st.characters(exclude_categories=[]))
"""Every code point, lone surrogates included: servers send them as JSON escapes."""


@given(TEXTS, st.integers(0, 10**6), st.sampled_from(["stop", "length", "filter"]))
def test_a_completion_comes_back_as_it_was(text: str, tokens: int, reason: str) -> None:
    completion = Completion(text, tokens, tokens + 1, reason, tokens // 2, 0.25)  # type: ignore[arg-type]
    name, data = encode_segment({A: encode_result(completion)})
    assert decode_result(decode_segment(name, data)[A]) == completion


@given(st.floats(0, 1e6), st.integers(1, 1000))
def test_a_score_comes_back_as_it_was(sum_nll: float, num_tokens: int) -> None:
    score = Score(sum_nll, num_tokens)
    assert decode_result(encode_result(score)) == score


def test_equal_content_is_the_same_segment_in_whatever_order_it_came() -> None:
    one, two = encode_result(Score(1.0, 1)), encode_result(Score(2.0, 2))
    assert encode_segment({A: one, B: two}) == encode_segment({B: two, A: one})
    name, data = encode_segment({A: one})
    assert is_segment(name)
    assert gzip.decompress(data) == (
        b'{"key":"' + A.encode() + b'","result":{"num_tokens":1,"sum_nll":1.0}}\n'
    )


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_segment_does_not_fit_its_name(damage: str) -> None:
    name, data = encode_segment({A: encode_result(Score(1.0, 1))})
    damaged = {"cut": data[:-1], "flipped": data[:-1] + b"!", "empty": b""}[damage]
    with pytest.raises(BadSegmentError, match="name"):
        decode_segment(name, damaged)


@pytest.mark.parametrize(
    "content",
    [
        b"no gzip",
        gzip.compress(b"[]\n", mtime=0),
        gzip.compress(b"{", mtime=0),
        gzip.compress(b'{"key":"k"}', mtime=0),
    ],
    ids=["no gzip", "no object", "no JSON", "no result"],
)
def test_what_never_was_a_segment_is_refused(content: bytes) -> None:
    import hashlib

    with pytest.raises(BadSegmentError, match="not a segment"):
        decode_segment(f"{hashlib.sha256(content).hexdigest()}.jsonl.gz", content)


@pytest.mark.parametrize("data", [b"{}", b"[]", b"3", b"{", b'{"text":"x"}', b'{"sum_nll":1}'])
def test_what_is_neither_completion_nor_score_is_refused(data: bytes) -> None:
    with pytest.raises(BadSegmentError):
        decode_result(data)


def test_fields_of_a_later_version_are_left_out() -> None:
    data = encode_result(Completion("x", 1, 2, "stop"))
    assert decode_result(data[:-1] + b',"mood":"good"}') == Completion("x", 1, 2, "stop")


def test_the_key_is_the_hash_of_model_prompt_and_parameters() -> None:
    params = GenerationParams(max_new_tokens=5)
    chat = Prompt.chat([{"role": "user", "content": "hi"}])
    assert completion_key("m", chat, params) == completion_key(
        "m", Prompt(messages=(("user", "hi"),)), GenerationParams(max_new_tokens=5, temperature=0.0)
    )
    different = {
        completion_key("m", chat, params),
        completion_key("n", chat, params),
        completion_key("m", Prompt.plain("hi"), params),
        completion_key("m", Prompt.plain("hi", "h"), params),
        completion_key("m", chat, GenerationParams(max_new_tokens=6)),
        completion_key("m", chat, GenerationParams(max_new_tokens=5, seed=1)),
        completion_key("m", chat, GenerationParams(max_new_tokens=5, stop=("x",))),
        completion_key("m", chat, GenerationParams(max_new_tokens=5, json_schema="{}")),
        score_key("m", chat, "hi"),
        score_key("m", chat, "ho"),
    }
    assert len(different) == 10


def test_keys_do_not_change_between_versions() -> None:
    """Else everything would be paid for again: a change must be wanted."""
    key = completion_key("m", Prompt.plain("hi"), GenerationParams(max_new_tokens=5))
    assert key == "0e5c748b88927b9f5ed825d065901d616c97e157a8c70ba62a2feef2b35c2865"
