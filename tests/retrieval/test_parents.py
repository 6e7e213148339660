"""Found chunks grow into passages of their documents, exactly and within their budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_lib.config import ExpandConfig
from pipeline_lib.corpus.schema import CHUNK_SCHEMA, CHUNKS_FILE, DOCUMENT_SCHEMA, DOCUMENTS_FILE
from pipeline_lib.errors import ArtifactCorruptError
from pipeline_lib.retrieval.hits import Hit
from pipeline_lib.retrieval.parents import ParentReader

TEXT = "aa bb\n\ncc dd\n\nee ff  gg hh\tii jj"
PIECES = ["aa bb", "cc dd", "ee ff", "gg hh", "ii jj"]
HEADINGS = [("A",), ("A",), ("B",), ("B",), ("B",)]


def write_corpus(directory: Path, row_group_size: int = 2) -> Path:
    """Document `one` of five chunks of two tokens each, and `two` whose two chunks overlap."""
    documents = [
        {"document_id": "zero", "text": "nothing"},
        {"document_id": "one", "text": TEXT},
        {"document_id": "two", "text": "kk ll mm nn"},
    ]
    chunks = [
        _chunk("one", number, TEXT.index(piece), piece, HEADINGS[number])
        for number, piece in enumerate(PIECES)
    ]
    chunks += [_chunk("two", 0, 0, "kk ll mm", ()), _chunk("two", 1, 6, "mm nn", ())]
    chunks.reverse()  # the order in the file does not matter
    for rows, schema, file in (
        (documents, DOCUMENT_SCHEMA, DOCUMENTS_FILE),
        (chunks, CHUNK_SCHEMA, CHUNKS_FILE),
    ):
        table = pa.Table.from_pylist(rows, schema)
        pq.write_table(table, directory / file, row_group_size=row_group_size)
    return directory


def _chunk(document: str, ordinal: int, start: int, text: str, headings: Sequence[str]) -> dict:
    return {
        "chunk_id": f"{document}-{ordinal}",
        "document_id": document,
        "ordinal": ordinal,
        "start": start,
        "end": start + len(text),
        "text": text,
        "num_tokens": len(text.split()),
        "heading_path": list(headings),
        "places": [],
    }


def hit(chunk_id: str, rank: int = 1) -> Hit:
    return Hit(
        chunk_id=chunk_id,
        document_id=chunk_id.split("-")[0],
        title="",
        source_uri="file:x",
        text="the chunk's own",
        start=0,
        end=0,
        rank=rank,
        score=1 / rank,
    )


Expand = Callable[..., list[Hit]]


@pytest.fixture
def expand(tmp_path: Path) -> Expand:
    reader = ParentReader(write_corpus(tmp_path))

    def expand(*chunk_ids: str, unit: str = "neighbours", tokens: int = 100, limit: int = 10):
        hits = [hit(chunk_id, rank) for rank, chunk_id in enumerate(chunk_ids, start=1)]
        config = ExpandConfig(unit=unit, max_tokens=tokens)
        [passages] = reader.expand([hits], config, limit=limit)
        return passages

    return expand


def numbers(passage: Hit) -> str:
    """The ordinals that a passage covers."""
    return "".join(chunk_id[-1] for chunk_id in passage.covered_ids)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (1, "2"),
        (2, "2"),
        (3, "2"),
        (4, "23"),
        (6, "123"),
        (8, "1234"),
        (10, "01234"),
        (99, "01234"),
    ],
)
def test_neighbours_are_taken_in_turn_while_they_fit(expand: Expand, tokens: int, expected: str):
    [passage] = expand("one-2", tokens=tokens)
    assert numbers(passage) == expected


def test_at_an_end_of_the_document_the_other_side_gets_the_room(expand: Expand):
    assert numbers(expand("one-0", tokens=6)[0]) == "012"
    assert numbers(expand("one-4", tokens=6)[0]) == "234"


def test_a_section_ends_at_another_heading(expand: Expand):
    assert numbers(expand("one-2", unit="section")[0]) == "234"
    assert numbers(expand("one-1", unit="section")[0]) == "01"


@pytest.mark.parametrize("tokens", [2, 4, 6, 8, 10])
def test_a_passage_is_its_documents_text_with_the_white_space_between_chunks(
    expand: Expand, tokens
):
    [passage] = expand("one-3", tokens=tokens)
    assert passage.text == TEXT[passage.start : passage.end]
    assert passage.text.split() == " ".join(PIECES[int(n)] for n in numbers(passage)).split()


def test_overlapping_chunks_are_joined_without_repetition(expand: Expand):
    [passage] = expand("two-1")
    assert (passage.text, passage.start, passage.end) == ("kk ll mm nn", 0, 11)
    assert passage.covered_ids == ("two-0", "two-1")


def test_an_overlap_counts_once(expand: Expand):
    # Of the second chunk's 5 characters 2 are in the first: ceil(2 * 3 / 5) = 2 more tokens.
    assert numbers(expand("two-0", tokens=5)[0]) == "01"
    assert numbers(expand("two-0", tokens=4)[0]) == "0"


def test_hits_of_one_passage_are_merged_into_the_best(expand: Expand):
    first, second = expand("one-1", "two-0", "one-0", "one-2", tokens=6)
    assert (first.chunk_id, numbers(first), first.rank) == ("one-1", "012", 1)
    assert (second.chunk_id, second.rank) == ("two-0", 2)


def test_a_passage_ends_where_an_earlier_one_begins(expand: Expand):
    first, second = expand("one-4", "one-1", tokens=6)
    assert (numbers(first), numbers(second)) == ("234", "01")
    assert [passage.rank for passage in (first, second)] == [1, 2]
    assert first.start >= second.end


def test_the_limit_counts_passages_not_hits(expand: Expand):
    passages = expand("one-2", "one-1", "one-3", "two-0", "two-1", limit=2)
    assert [passage.chunk_id for passage in passages] == ["one-2", "two-0"]


def test_scores_stay_those_of_the_best_hit(expand: Expand):
    assert [passage.score for passage in expand("one-2", "one-1", "two-0")] == [1, 1 / 3]


def test_each_query_has_passages_of_its_own(tmp_path: Path):
    reader = ParentReader(write_corpus(tmp_path))
    rankings = [[hit("one-0")], [], [hit("one-0"), hit("two-0", 2)]]
    found = reader.expand(rankings, ExpandConfig(unit="neighbours"), limit=5)
    assert [[each.chunk_id for each in passages] for passages in found] == [
        ["one-0"],
        [],
        ["one-0", "two-0"],
    ]


@pytest.mark.parametrize("chunk_id", ["one-9", "nine-0"])
def test_a_corpus_without_the_chunk_is_an_error(expand: Expand, chunk_id: str):
    with pytest.raises(ArtifactCorruptError, match=f"does not have the chunk {chunk_id} of file:x"):
        expand(chunk_id)
