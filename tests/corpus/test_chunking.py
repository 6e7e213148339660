"""Chunks: exact offsets, a hard token limit, complete cover, ids that survive edits."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pipeline_lib.config import ChunkConfig
from pipeline_lib.corpus.chunking import (
    CHUNK_NAMESPACE,
    MAX_CHARS_PER_TOKEN,
    Chunker,
    check_fits_model,
    chunk_id,
    load_tokenizer,
)
from pipeline_lib.corpus.schema import Chunk, Document
from pipeline_lib.corpus.sources import HTML, MARKDOWN, PLAIN_TEXT
from pipeline_lib.errors import ConfigError, ModelNotFoundError

MakeDocument = Callable[..., Document]

CONFIGS = {
    "16": ChunkConfig(size_tokens=16),
    "16+5": ChunkConfig(size_tokens=16, overlap_tokens=5),
    "40+39": ChunkConfig(size_tokens=40, overlap_tokens=39),
}
MEDIA_TYPES = (PLAIN_TEXT, MARKDOWN, HTML)
FRAGMENTS = (
    *("word ", "Two words. ", "a", " ", "\n", "\n\n", "\t", "    ", "x" * 120, "y" * 99),
    *("漢", "字", "é", "e\u0301", "😀", "👨‍👩‍👧", "\u3000", "\u200b", "ﷺ", "ก"),
    *("# h\n", "- i\n", "```\n", "> q\n", "|a|b|\n|-|-|\n", "<div>", "---\n", "1. ", "**b**"),
)
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=60).map("".join)


@pytest.fixture(scope="module")
def chunkers(request: pytest.FixtureRequest) -> dict[tuple[str, str], Chunker]:
    """Every tokenizer with every configuration."""
    from_conftest = request.getfixturevalue("tokenizers_by_name")
    return {
        (kind, name): Chunker(tokenizer, config)
        for kind, tokenizer in from_conftest.items()
        for name, config in CONFIGS.items()
    }


def check(text: str, chunks: list[Chunk], config: ChunkConfig, tokenizer: Tokenizer) -> None:
    """What must hold of any chunking of any text."""
    covered: set[int] = set()
    for ordinal, chunk in enumerate(chunks):
        assert chunk.ordinal == ordinal
        assert text[chunk.start : chunk.end] == chunk.text
        assert chunk.text.strip()
        assert chunk.num_tokens == len(tokenizer.encode(chunk.text, add_special_tokens=False))
        assert chunk.num_tokens <= config.size_tokens
        assert len(chunk.text) <= config.size_tokens * MAX_CHARS_PER_TOKEN
        covered.update(range(chunk.start, chunk.end))
    assert [i for i, c in enumerate(text) if not c.isspace() and i not in covered] == []
    assert len({chunk.chunk_id for chunk in chunks}) == len(chunks)
    ends = [chunk.end for chunk in chunks]
    assert ends == sorted(set(ends))
    for before, after in pairwise(chunks):
        shared = text[after.start : before.end]
        assert len(tokenizer.encode(shared, add_special_tokens=False)) <= config.overlap_tokens


@given(text=TEXTS, data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_text_is_covered_by_exact_chunks_within_the_limit(
    chunkers: dict[tuple[str, str], Chunker],
    tokenizers_by_name: dict[str, Tokenizer],
    document: MakeDocument,
    text: str,
    data: st.DataObject,
) -> None:
    kind, name = data.draw(st.sampled_from(sorted(chunkers)))
    media_type = data.draw(st.sampled_from(MEDIA_TYPES))
    chunks = chunkers[kind, name].chunk(document(text, media_type))
    unbounded = Tokenizer.from_str(tokenizers_by_name[kind].to_str())
    unbounded.no_truncation()
    unbounded.no_padding()
    check(text, chunks, CONFIGS[name], unbounded)


@pytest.mark.parametrize("media_type", MEDIA_TYPES)
@pytest.mark.parametrize("kind", ["words", "letters", "bytes"])
@pytest.mark.parametrize(
    "text",
    [
        pytest.param("x" * 10_000, id="one long word"),
        pytest.param("漢字かな交じり文" * 500, id="CJK"),
        pytest.param("word " * 2_000, id="one long line"),
        pytest.param("é" * 99 + " " + "漢😀" * 300, id="several bytes per character"),
        pytest.param("a." * 1_000, id="many sentences without a space"),
    ],
)
def test_the_limit_holds_where_there_is_nowhere_to_cut(
    tokenizers_by_name: dict[str, Tokenizer],
    document: MakeDocument,
    text: str,
    kind: str,
    media_type: str,
) -> None:
    config = ChunkConfig(size_tokens=32, overlap_tokens=8)
    chunker = Chunker(tokenizers_by_name[kind], config)
    chunks = chunker.chunk(document(text, media_type))
    assert len(chunks) > 1
    assert max(chunker.count_tokens([chunk.text for chunk in chunks])) <= 32
    assert max(len(chunk.text) for chunk in chunks) <= 32 * MAX_CHARS_PER_TOKEN
    assert "".join(chunk.text for chunk in chunks).replace(" ", "") != ""
    assert chunks[0].start == 0
    assert chunks[-1].end == len(text.rstrip())


def test_offsets_count_code_points_not_bytes(
    word_tokenizer: Tokenizer, document: MakeDocument
) -> None:
    text = "😀 é 漢字. " * 3 + "\n\n" + "plain words at the end of it all"
    chunks = Chunker(word_tokenizer, ChunkConfig(size_tokens=16)).chunk(document(text))
    assert chunks[-1].text == "plain words at the end of it all"
    assert chunks[-1].start == text.index("plain")
    assert chunks[-1].end == len(text)


def test_chunks_end_at_paragraphs_where_they_can(
    word_tokenizer: Tokenizer, document: MakeDocument
) -> None:
    paragraphs = ["one two three four five six seven eight nine"] * 3
    chunks = Chunker(word_tokenizer, ChunkConfig(size_tokens=16)).chunk(
        document("\n\n".join(paragraphs))
    )
    assert [chunk.text for chunk in chunks] == paragraphs
    assert [chunk.num_tokens for chunk in chunks] == [9, 9, 9]


def test_markdown_is_cut_at_headings_and_plain_text_is_not(
    word_tokenizer: Tokenizer, document: MakeDocument
) -> None:
    """A `#` means nothing in plain text: there the paragraphs are packed as they come."""
    last = "six seven eight nine ten eleven twelve thirteen"
    text = f"# A\n\none two three\n\n# B\n\nfour five\n\n{last}"
    chunker = Chunker(word_tokenizer, ChunkConfig(size_tokens=16))
    plain, markdown = (
        [chunk.text for chunk in chunker.chunk(document(text, media_type))]
        for media_type in (PLAIN_TEXT, MARKDOWN)
    )
    assert plain == [
        "# A\n\none two three\n\n# B\n\nfour five",
        last,
    ]
    assert markdown == [
        "# A\n\none two three",
        f"# B\n\nfour five\n\n{last}",
    ]


def test_overlap_repeats_whole_words_of_the_chunk_before(
    word_tokenizer: Tokenizer, document: MakeDocument
) -> None:
    words = [f"w{number}" for number in range(40)]
    config = ChunkConfig(size_tokens=16, overlap_tokens=4)
    chunks = Chunker(word_tokenizer, config).chunk(document(" ".join(words)))
    assert [chunk.text.split() for chunk in chunks] == [
        words[0:12],
        words[8:24],
        words[20:36],
        words[32:40],
    ]


def test_overlap_in_markdown_where_the_splitters_own_overlap_panics(
    tokenizers_by_name: dict[str, Tokenizer], document: MakeDocument
) -> None:
    """`MarkdownSplitter(16, overlap=5)` of semantic-text-splitter 0.33.1 dies on this text."""
    text = "        - i\n\n\n    字😀\n\néword 漢# h\n```\n👨\u200d👩\u200d👧"
    chunks = Chunker(tokenizers_by_name["bytes"], CONFIGS["16+5"]).chunk(document(text, MARKDOWN))
    check(text, chunks, CONFIGS["16+5"], tokenizers_by_name["bytes"])


def test_whitespace_only_text_has_no_chunks(
    word_tokenizer: Tokenizer, document: MakeDocument
) -> None:
    chunker = Chunker(word_tokenizer, ChunkConfig())
    assert chunker.chunk(document(" \n\n\t\u3000 ")) == []
    assert chunker.chunk(document("")) == []


def test_the_tokenizer_it_was_given_is_left_as_it_was(
    tokenizers_by_name: dict[str, Tokenizer],
) -> None:
    tokenizer = tokenizers_by_name["letters"]
    before = tokenizer.to_str()
    chunker = Chunker(tokenizer, ChunkConfig())
    assert chunker.count_tokens(["a" * 50, "a"]) == [50, 1]  # neither cut to 8 nor padded to 8
    assert tokenizer.to_str() == before


def test_a_character_with_more_tokens_than_a_chunk_may_have_is_an_error(
    document: MakeDocument,
) -> None:
    from tokenizers import models, normalizers

    tokenizer = Tokenizer(models.BPE({"a": 0}, []))
    tokenizer.normalizer = normalizers.Replace("ﷺ", "a" * 18)
    with pytest.raises(ConfigError, match=r"size_tokens \(16\) is too small: 'ﷺ'.*18 tokens"):
        Chunker(tokenizer, ChunkConfig(size_tokens=16)).chunk(document("aa ﷺ aa"))


# --- identity -------------------------------------------------------------------------------------


def test_a_chunk_id_is_a_uuid5_of_uri_text_and_occurrence() -> None:
    expected = uuid.uuid5(CHUNK_NAMESPACE, "file:d/a.txt\x00abc\x000")
    assert chunk_id("file:d/a.txt", "abc", 0) == str(expected)
    assert str(CHUNK_NAMESPACE) == "64cb1595-19dc-5710-b6f7-e0f6f5b11b01"


def test_equal_chunks_of_one_document_get_different_ids_in_order(
    word_tokenizer: Tokenizer, document: MakeDocument
) -> None:
    text = "\n\n".join(["one two three four five six seven eight nine"] * 3)
    chunker = Chunker(word_tokenizer, ChunkConfig(size_tokens=16))
    ids = [chunk.chunk_id for chunk in chunker.chunk(document(text))]
    assert len(set(ids)) == 3
    assert [c.chunk_id for c in chunker.chunk(document(text + "\n\n" + text))][:3] == ids


def test_equal_text_in_another_document_gets_another_id(
    word_tokenizer: Tokenizer, document: MakeDocument
) -> None:
    chunker = Chunker(word_tokenizer, ChunkConfig())
    (here,) = chunker.chunk(document("same", source_uri="file:a"))
    (there,) = chunker.chunk(document("same", source_uri="file:b"))
    assert here.chunk_id != there.chunk_id


PARAGRAPHS = st.lists(
    st.lists(st.sampled_from(["red", "green", "blue", "one", "two"]), min_size=9, max_size=14).map(
        " ".join
    ),
    min_size=2,
    max_size=12,
    unique=True,
)


@given(paragraphs=PARAGRAPHS, data=st.data())
@settings(max_examples=50, deadline=None)
def test_ids_of_untouched_paragraphs_survive_an_edit_elsewhere(
    chunkers: dict[tuple[str, str], Chunker],
    document: MakeDocument,
    paragraphs: list[str],
    data: st.DataObject,
) -> None:
    """Paragraphs of 9 to 14 tokens: each is a chunk of its own at 16 tokens."""
    chunker = chunkers["words", "16"]
    where = data.draw(st.integers(0, len(paragraphs)))
    edited = [
        *paragraphs[:where],
        "a new paragraph that nobody saw before this day",
        *paragraphs[where:],
    ]
    before = chunker.chunk(document("\n\n".join(paragraphs)))
    after = chunker.chunk(document("\n\n".join(edited)))
    assert {chunk.chunk_id for chunk in before} < {chunk.chunk_id for chunk in after}
    assert len(after) == len(before) + 1


# --- the model's folder ---------------------------------------------------------------------------


def test_the_tokenizer_is_read_from_the_models_folder(model_folder: Path) -> None:
    assert len(load_tokenizer(model_folder).encode("three small words")) == 3


@pytest.mark.parametrize("content", [None, "{}", "not json"])
def test_a_missing_or_broken_tokenizer_file_is_an_error_that_names_the_folder(
    model_folder: Path, content: str | None
) -> None:
    file = model_folder / "tokenizer.json"
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    with pytest.raises(ModelNotFoundError, match=r"embedding-model has no usable tokenizer\.json"):
        load_tokenizer(model_folder)


def test_chunks_longer_than_the_model_reads_are_refused(
    model_folder: Path, tokenizers_by_name: dict[str, Tokenizer]
) -> None:
    tokenizer = tokenizers_by_name["letters"]  # adds two special tokens; the model reads 64
    check_fits_model(ChunkConfig(size_tokens=62), model_folder, tokenizer)
    with pytest.raises(ConfigError, match=r"size_tokens is 63, .* reads at most 62 tokens"):
        check_fits_model(ChunkConfig(size_tokens=63), model_folder, tokenizer)
    (model_folder / "sentence_bert_config.json").unlink()
    check_fits_model(ChunkConfig(size_tokens=63), model_folder, tokenizer)
