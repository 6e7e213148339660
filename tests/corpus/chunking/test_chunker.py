"""Chunks: exact offsets, a hard token limit, complete cover, cuts where the text has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pipeline_lib.config import ChunkConfig
from pipeline_lib.corpus.chunking import MAX_CHARS_PER_TOKEN, Chunker
from pipeline_lib.corpus.media_types import MARKDOWN, PLAIN_TEXT, SOURCE_CODE
from pipeline_lib.corpus.schema import Chunk, Document, Section
from pipeline_lib.errors import ConfigError
from tests.corpus.chunking.made_texts import CONFIGS, words

MakeDocument = Callable[..., Document]
MEDIA_TYPES = (PLAIN_TEXT, MARKDOWN, SOURCE_CODE)
FRAGMENTS = (
    *("word ", "Two words. ", "a", " ", "\n", "\n\n", "\t", "    ", "x" * 120, "y" * 99),
    *("漢", "字", "é", "e\u0301", "😀", "👨‍👩‍👧", "\u3000", "\u200b", "ﷺ", "ก"),
    *("# h\n", "- i\n", "```\n", "> q\n", "|a|b|\n|-|-|\n", "<div>", "---\n", "1. ", "**b**"),
)
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=60).map("".join)


def texts_of(chunks: list[Chunk]) -> list[str]:
    return [chunk.text for chunk in chunks]


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
    made = document(text, media_type)
    chunks = chunkers[kind, name].chunk(made)
    unbounded = Tokenizer.from_str(tokenizers_by_name[kind].to_str())
    unbounded.no_truncation()
    unbounded.no_padding()
    check(made.text, chunks, CONFIGS[name], unbounded)


@given(text=st.text(max_size=400), kind=st.sampled_from(["words", "letters", "bytes"]))
@settings(max_examples=100, deadline=None)
def test_offsets_are_exact_in_text_that_nobody_cleaned(
    chunkers: dict[tuple[str, str], Chunker], document: MakeDocument, text: str, kind: str
) -> None:
    raw = replace(document("x"), text=text, sections=())
    chunks = chunkers[kind, "16+5"].chunk(raw)
    assert texts_of(chunks) == [text[chunk.start : chunk.end] for chunk in chunks]
    covered = {n for chunk in chunks for n in range(chunk.start, chunk.end)}
    assert all(c.isspace() for n, c in enumerate(text) if n not in covered)
    assert max((chunk.num_tokens for chunk in chunks), default=0) <= 16


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
    text = "😀 é 漢字." * 3 + "\n\n" + "plain words at the end of it all"
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
    assert len(chunks) > 3
    for before, after in pairwise(chunks):
        assert before.text.split()[-4:] == after.text.split()[:4]


def test_overlap_does_not_reach_into_another_section(
    word_tokenizer: Tokenizer, document: MakeDocument
) -> None:
    config = ChunkConfig(size_tokens=20, overlap_tokens=6)
    text = f"# A\n\n{words(12)}\n\n# B\n\n{words(12)}"
    chunks = Chunker(word_tokenizer, config).chunk(document(text, MARKDOWN))
    assert [chunk.text.split("\n")[0] for chunk in chunks] == ["# A", "# B"]


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


# --- structure ------------------------------------------------------------------------------------


def test_a_chunk_knows_the_headings_above_it(
    word_tokenizer: Tokenizer, document: MakeDocument
) -> None:
    text = (
        f"# T\n\n{words(12)}\n\n## A\n\n{words(12)}\n\n### B\n\n{words(14)}\n\n## C\n\n{words(12)}"
    )
    chunks = Chunker(word_tokenizer, ChunkConfig(size_tokens=18)).chunk(document(text, MARKDOWN))
    assert [chunk.heading_path for chunk in chunks] == [
        ("T",),
        ("T", "A"),
        ("T", "A", "B"),
        ("T", "C"),
    ]


def test_a_chunk_knows_the_pages_it_touches(
    word_tokenizer: Tokenizer, document: MakeDocument
) -> None:
    pages = [words(6), words(6, 10), words(14, 20)]
    sections, start = [], 0
    for number, page in enumerate(pages, start=1):
        sections.append(Section(start=start, kind="page", label=str(number)))
        start += len(page) + 2
    paged = replace(document("\n\n".join(pages)), sections=tuple(sections))
    chunks = Chunker(word_tokenizer, ChunkConfig(size_tokens=16)).chunk(paged)
    assert [chunk.places for chunk in chunks] == [("page 1", "page 2"), ("page 3",)]


def test_slides_are_cut_apart_and_headings_of_one_do_not_reach_the_next(
    word_tokenizer: Tokenizer, document: MakeDocument
) -> None:
    slides = f"# A\n\n{words(8)}\n\n{words(9, 20)}"
    places = (
        Section(start=0, kind="slide", label="1"),
        Section(start=0, kind="heading", label="A", level=1),
        Section(start=slides.index("w20"), kind="slide", label="2"),
    )
    chunks = Chunker(word_tokenizer, ChunkConfig(size_tokens=32)).chunk(
        replace(document(slides, MARKDOWN), sections=places)
    )
    assert [(chunk.places, chunk.heading_path) for chunk in chunks] == [
        (("slide 1",), ("A",)),
        (("slide 2",), ()),
    ]


def test_tiny_sections_below_one_parent_share_a_chunk_and_others_do_not(
    word_tokenizer: Tokenizer, document: MakeDocument
) -> None:
    """Tiny is below a quarter of the limit: 8 of 32 tokens. A mark is a token each: `## A` is 3."""
    bodies = {"# T": 0, "## A": 2, "## B": 4, "## C": 9, "# U": 9}
    text = "\n\n".join(f"{heading}\n\n{words(size)}" for heading, size in bodies.items())
    chunks = Chunker(word_tokenizer, ChunkConfig(size_tokens=32)).chunk(document(text, MARKDOWN))
    assert [chunk.text.split("\n")[0] for chunk in chunks] == ["# T", "## C", "# U"]


def test_a_heading_is_not_left_alone(word_tokenizer: Tokenizer, document: MakeDocument) -> None:
    text = f"# T\n\n## A\n\n{words(40)}"
    chunks = Chunker(word_tokenizer, ChunkConfig(size_tokens=16)).chunk(document(text, MARKDOWN))
    assert chunks[0].text.startswith("# T\n\n## A\n\nw0 w1")


TABLE = "| a | b |\n|---|---|\n" + "\n".join(f"| {n} | x |" for n in range(6))
CODE = "```py\n" + "\n".join(f"call({n})" for n in range(6)) + "\n```"


@pytest.mark.parametrize("block", [TABLE, CODE, words(40)], ids=["table", "code", "paragraph"])
def test_a_block_that_fits_is_not_cut(
    word_tokenizer: Tokenizer, document: MakeDocument, block: str
) -> None:
    size = len(word_tokenizer.encode(block, add_special_tokens=False))
    text = f"{words(10)}\n\n{block}\n\n{words(10, 50)}"
    chunks = Chunker(word_tokenizer, ChunkConfig(size_tokens=size)).chunk(document(text, MARKDOWN))
    assert block in texts_of(chunks)


def test_a_table_is_cut_between_rows_and_its_header_stays_with_a_row(
    word_tokenizer: Tokenizer, document: MakeDocument
) -> None:
    chunks = Chunker(word_tokenizer, ChunkConfig(size_tokens=32)).chunk(document(TABLE, MARKDOWN))
    assert len(chunks) > 1
    assert chunks[0].text.startswith("| a | b |\n|---|---|\n| 0 | x |")
    assert [line for chunk in chunks for line in chunk.text.split("\n")] == TABLE.split("\n")


def test_code_is_cut_between_lines_and_at_the_top_level_where_it_can(
    word_tokenizer: Tokenizer, document: MakeDocument
) -> None:
    functions = [f"def f{n}():\n    a = {n}\n\n    b = 2\n    return g(a, b)" for n in range(4)]
    source = document("\n\n".join(functions), SOURCE_CODE)
    fenced = document("```py\n" + "\n\n".join(functions) + "\n```", MARKDOWN)
    chunker = Chunker(word_tokenizer, ChunkConfig(size_tokens=34))
    assert texts_of(chunker.chunk(source)) == functions
    assert [chunk.text.strip("`py\n") for chunk in chunker.chunk(fenced)] == functions


def test_list_items_are_kept_whole_with_what_is_below_them(
    word_tokenizer: Tokenizer, document: MakeDocument
) -> None:
    items = [f"- {words(4, 10 * n)}\n  - {words(3, 10 * n + 5)}" for n in range(5)]
    chunks = Chunker(word_tokenizer, ChunkConfig(size_tokens=22)).chunk(
        document("\n".join(items), MARKDOWN)
    )
    assert len(chunks) > 1
    assert "\n".join(texts_of(chunks)) == "\n".join(items)
    assert all(chunk.text.startswith("- ") for chunk in chunks)


def test_what_a_colon_announces_stays_with_it(
    word_tokenizer: Tokenizer, document: MakeDocument
) -> None:
    text = f"{words(12)}\n\nThe options are:\n\n- {words(3)}\n- {words(3, 5)}"
    chunks = Chunker(word_tokenizer, ChunkConfig(size_tokens=17)).chunk(document(text, MARKDOWN))
    assert chunks[1].text.startswith("The options are:\n\n- w0")


@pytest.mark.parametrize(
    ("sentences", "joint"),
    [
        pytest.param(
            ["The first one ends here.", "Dr. no stop e.g. there!", "Why? Yes."], " ", id="latin"
        ),
        pytest.param(["漢字の文です。", "次の文も短い。", "最後の文だ\uff01"], "", id="CJK"),
        pytest.param(["هذه جملة أولى قصيرة.", "وهل هذه جملة ثانية؟", "نعم هذه."], " ", id="RTL"),
    ],
)
def test_long_paragraphs_are_cut_after_sentences(
    tokenizers_by_name: dict[str, Tokenizer],
    document: MakeDocument,
    sentences: list[str],
    joint: str,
) -> None:
    paragraph = joint.join(sentences * 8)
    chunker = Chunker(tokenizers_by_name["bytes"], ChunkConfig(size_tokens=100))
    chunks = chunker.chunk(document(paragraph))
    assert len(chunks) > 2
    ends = (".", "!", "?", "。", "\uff01", "؟")
    assert all(chunk.text.endswith(ends) for chunk in chunks)
    assert not any(chunk.text.endswith(("Dr.", "e.g.")) for chunk in chunks)


def test_emoji_families_and_combining_marks_are_not_torn(
    tokenizers_by_name: dict[str, Tokenizer], document: MakeDocument
) -> None:
    cluster = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    text = cluster * 40
    chunker = Chunker(tokenizers_by_name["bytes"], ChunkConfig(size_tokens=60))
    assert {chunk.text.replace(cluster, "") for chunk in chunker.chunk(document(text))} == {""}
