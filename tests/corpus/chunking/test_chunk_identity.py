"""Chunk ids, and which chunks an edit of the document leaves as they were."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pipeline_lib.config import ChunkConfig
from pipeline_lib.corpus.chunking import CHUNK_NAMESPACE, Chunker, chunk_id
from pipeline_lib.corpus.media_types import MARKDOWN
from pipeline_lib.corpus.schema import Document
from tests.corpus.chunking.made_texts import words

MakeDocument = Callable[..., Document]


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


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_an_edit_in_one_section_leaves_the_chunks_of_all_others(
    chunkers: dict[tuple[str, str], Chunker], document: MakeDocument, data: st.DataObject
) -> None:
    """Sections of four tokens and more, a quarter of 16, stand by themselves."""
    sizes = data.draw(st.lists(st.integers(4, 60), min_size=2, max_size=8))
    bodies = [words(size, 100 * number) for number, size in enumerate(sizes)]
    edited = data.draw(st.integers(0, len(bodies) - 1))
    where = data.draw(st.integers(0, len(bodies[edited])))

    def chunk_ids(bodies: list[str], left_out: int) -> set[str]:
        text = "\n\n".join(f"## S{number}\n\n{body}" for number, body in enumerate(bodies))
        return {
            chunk.chunk_id
            for chunk in chunkers["words", "16+5"].chunk(document(text, MARKDOWN))
            if chunk.heading_path != (f"S{left_out}",)
        }

    before = chunk_ids(bodies, edited)
    bodies[edited] = f"{bodies[edited][:where]} new words {bodies[edited][where:]}"
    assert chunk_ids(bodies, edited) == before


def test_what_stands_in_the_next_section_does_not_move_a_cut(
    chunkers: dict[tuple[str, str], Chunker], document: MakeDocument
) -> None:
    """Cuts are chosen by the text around them, and that ends where the section does."""

    def first_section(other: str) -> list[str]:
        text = f"## S0\n\n{words(27)}\n\n## S1\n\n{other}"
        chunks = chunkers["words", "16+5"].chunk(document(text, MARKDOWN))
        return [chunk.text for chunk in chunks if chunk.heading_path == ("S0",)]

    assert first_section(words(4, 100)) == first_section(f"new words {words(4, 100)}")


def test_in_text_without_headings_an_edit_changes_the_chunks_around_it_only(
    word_tokenizer: Tokenizer, document: MakeDocument
) -> None:
    """One long paragraph: 1,500 sentences of different lengths, twenty edits, one at a time."""
    generator = random.Random(7)
    sentences = [f"S{n} {words(generator.randint(3, 20), n)}." for n in range(1_500)]
    chunker = Chunker(word_tokenizer, ChunkConfig(size_tokens=64))
    before = {chunk.chunk_id for chunk in chunker.chunk(document(" ".join(sentences)))}
    lost = []
    for _ in range(20):
        where = generator.randrange(len(sentences))
        text = " ".join([*sentences[:where], "This is new.", *sentences[where:]])
        lost.append(len(before - {chunk.chunk_id for chunk in chunker.chunk(document(text))}))
    assert len(before) > 200
    assert sum(lost) / len(lost) < 5
    assert max(lost) < 25
