"""A dataset's questions: judged by their oracle chunk, and by what they quote of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_lib.corpus.schema import CHUNK_SCHEMA, CHUNKS_FILE, Chunk
from pipeline_lib.errors import InputError
from pipeline_lib.evaluation.retrieval.dataset_questions import dataset_judgements
from pipeline_lib.evaluation.retrieval.judgements import Span
from pipeline_lib.raft.rows import (
    Passage,
    Provenance,
    Quote,
    RaftRow,
    ReasoningStep,
    split_file,
    write_rows,
)

TEXT = "A fox is red. It sleeps by day."


def _row(row_id: str, split: str, quote: str | None) -> RaftRow:
    passage = Passage(
        chunk_id="c1", document_id="d1", title="t", text=TEXT, role="oracle", origin="oracle"
    )
    start = TEXT.find(quote) if quote else 0
    quoted = (
        Quote(chunk_id="c1", start=start, end=start + len(quote), text=quote) if quote else None
    )
    return RaftRow(
        row_id=row_id,
        row_key=row_id,
        split=split,  # type: ignore[arg-type]
        task="answer",
        kind="factual",
        style="plain",
        question=f"{row_id}?",
        context=(passage,),
        oracle_chunk_ids=("c1",),
        oracle_document_ids=("d1",),
        source_document_id="d1",
        oracle_present=True,
        target="answer",
        reasoning=(ReasoningStep(text="Because:", quote=quoted),),
        final_answer="red",
        provenance=Provenance(
            question_source="user",
            answer_source="user",
            teacher_model="",
            prompt_version="1",
            seed=1,
        ),
    )


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    rows: Mapping[str, list[RaftRow]] = {
        "train": [_row("r3", "train", None)],
        "validation": [],
        "test": [_row("r2", "test", "sleeps by day"), _row("r1", "test", None)],
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


def test_several_oracles_are_all_relevant_and_need_their_spans_together(tmp_path: Path) -> None:
    row = _row("r1", "test", "A fox is red.")
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
