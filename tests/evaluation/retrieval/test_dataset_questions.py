"""A dataset's questions: judged by their oracle chunk, and by what they quote of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_lib.corpus.schema import CHUNK_SCHEMA, CHUNKS_FILE, Chunk
from pipeline_lib.errors import InputError
from pipeline_lib.evaluation.retrieval.dataset_questions import dataset_judgements
from pipeline_lib.evaluation.retrieval.judgements import Span
from pipeline_lib.raft.rows import RaftRow, split_file, write_rows

TEXT = "A fox is red. It sleeps by day."


MakeRow = Callable[..., RaftRow]


@pytest.fixture
def folders(tmp_path: Path, make_row: MakeRow) -> tuple[Path, Path]:
    rows: Mapping[str, list[RaftRow]] = {
        "train": [make_row("r3", "train", TEXT)],
        "validation": [],
        "test": [make_row("r2", "test", TEXT, "sleeps by day"), make_row("r1", "test", TEXT)],
    }
    for split, of_split in rows.items():
        write_rows(tmp_path / split_file(split), of_split)  # type: ignore[arg-type]
    chunk = Chunk(
        chunk_id="c1", document_id="d1", ordinal=0, start=100, end=131, text=TEXT, num_tokens=9
    )
    table = pa.Table.from_pylist([asdict(chunk)], CHUNK_SCHEMA)
    pq.write_table(table, tmp_path / CHUNKS_FILE)
    return tmp_path, tmp_path


def test_spans_are_what_is_quoted_in_the_documents_offsets_else_the_whole_chunk(
    folders: tuple[Path, Path],
) -> None:
    judgements = dataset_judgements(*folders, "test")
    assert judgements.queries == {"r1": "r1?", "r2": "r2?"}
    assert judgements.chunks == {"r1": {"c1": 1}, "r2": {"c1": 1}}
    assert judgements.documents["r1"] == {"d1": 1}
    assert judgements.spans == {
        "r1": (Span("d1", 100, 131),),
        "r2": (Span("d1", 117, 130, "sleeps by day"),),
    }


def test_all_splits_together_and_an_empty_split(folders: tuple[Path, Path]) -> None:
    assert set(dataset_judgements(*folders, "all").queries) == {"r1", "r2", "r3"}
    with pytest.raises(InputError, match="validation split has no questions"):
        dataset_judgements(*folders, "validation")


def test_several_oracles_are_all_relevant_and_need_their_spans_together(
    tmp_path: Path, make_row: MakeRow
) -> None:
    row = make_row("r1", "test", TEXT, "A fox is red.")
    second = row.context[0].model_copy(update={"chunk_id": "c2", "document_id": "d2"})
    both = RaftRow.model_validate(
        dict(row)
        | {
            "context": (row.context[0], second),
            "oracle_chunk_ids": ("c1", "c2"),
            "oracle_document_ids": ("d1", "d2"),
        }
    )
    write_rows(tmp_path / split_file("test"), [both])
    chunk = Chunk(
        chunk_id="c1", document_id="d1", ordinal=0, start=100, end=131, text=TEXT, num_tokens=9
    )
    other = replace(chunk, chunk_id="c2", document_id="d2", start=0, end=31)
    for chunks, spans in (
        ([chunk, other], {"r1": (Span("d1", 100, 113, "A fox is red."), Span("d2", 0, 31))}),
        ([chunk], {}),
    ):
        table = pa.Table.from_pylist([asdict(each) for each in chunks], CHUNK_SCHEMA)
        pq.write_table(table, tmp_path / CHUNKS_FILE)
        judgements = dataset_judgements(tmp_path, tmp_path, "test")
        assert judgements.chunks == {"r1": {"c1": 1, "c2": 1}}
        assert judgements.documents == {"r1": {"d1": 1, "d2": 1}}
        assert judgements.spans == spans
