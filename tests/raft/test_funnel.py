from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.raft import funnel as module
from pipeline_lib.raft.candidates import Candidate, Rejection, Topic
from pipeline_lib.raft.funnel import REJECT_SCHEMA, Funnel, Reject, read_samples

CHUNK = Chunk(chunk_id="c", document_id="d", ordinal=0, start=0, end=1, text="x", num_tokens=1)


def reject(number: int, stage: str = "new", reason: str = "asked_before") -> Reject:
    return Reject(question=f"Question {number}?", stage=stage, reason=reason, chunk_id="c")


def filled(rejects: Iterable[Reject], directory: Path | None = None) -> Funnel:
    funnel = Funnel(("question", "new"), directory)
    for each in rejects:
        funnel.drop(each)
    return funnel


def test_kept_and_dropped_add_up_step_by_step() -> None:
    funnel = Funnel(("question", "new"))
    for number, reason in enumerate(["length", "no_question", "length"]):
        funnel.drop(reject(number, "question", reason))
    funnel.keep("question", 4)
    funnel.drop(reject(9))
    funnel.keep("new")
    funnel.keep("new", 2)
    assert funnel.num_candidates == 7
    assert funnel.as_json(num_rows=3) == {
        "num_candidates": 7,
        "num_rows": 3,
        "steps": [
            {"name": "question", "kept": 4, "dropped": {"length": 2, "no_question": 1}},
            {"name": "new", "kept": 3, "dropped": {"asked_before": 1}},
        ],
    }
    assert funnel.dropped == {
        "question.length": 2,
        "question.no_question": 1,
        "new.asked_before": 1,
    }
    assert str(funnel).splitlines() == [
        "question: 4 kept; dropped 2 length, 1 no_question",
        "new: 3 kept; dropped 1 asked_before",
    ]


def test_steps_that_were_not_announced_come_last() -> None:
    funnel = Funnel(("question",))
    funnel.drop(reject(1, "late", "because"))
    funnel.keep("later")
    assert [step["name"] for step in funnel.as_json(num_rows=0)["steps"]] == [
        "question",
        "late",
        "later",
    ]
    assert Funnel().num_candidates == 0


def test_a_reject_names_its_passage_and_where_a_user_wrote_it() -> None:
    candidate = Candidate(
        topic=Topic(split="train", chunks=(CHUNK,), kind="user"), question="Why?", origin="line 12"
    )
    assert Reject.of(candidate, Rejection("quotes", "absent", "words")) == Reject(
        stage="quotes",
        reason="absent",
        question="Why?",
        chunk_id="c",
        document_id="d",
        kind="user",
        text="line 12: words",
    )


def test_rejects_are_written_as_they_come_in_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BATCH_REJECTS", 3)
    with filled((reject(n) for n in range(8)), tmp_path) as funnel:
        funnel.write(num_rows=0)
    file = pq.ParquetFile(tmp_path / "rejects.parquet")
    assert file.num_row_groups == 3
    assert file.schema_arrow.equals(REJECT_SCHEMA)
    questions = file.read().column("question").to_pylist()
    assert questions == [f"Question {n}?" for n in range(8)]


def test_without_rejects_the_files_are_there_too(tmp_path: Path) -> None:
    with Funnel(("question",), tmp_path) as funnel:
        funnel.write(num_rows=0)
    assert pq.read_table(tmp_path / "rejects.parquet").num_rows == 0
    assert json.loads((tmp_path / "funnel.json").read_text())["num_candidates"] == 0
    assert read_samples(tmp_path / "reject_samples.json") == []


def test_samples_are_few_per_reason_and_do_not_depend_on_the_order() -> None:
    rejects = [reject(n) for n in range(40)] + [reject(n, "question", "length") for n in range(2)]
    shuffled = random.Random(1).sample(rejects, len(rejects))
    samples = filled(rejects).samples()
    assert samples == filled(shuffled).samples()
    assert [(s.stage, s.reason, s.num_rejects) for s in samples] == [
        *[("question", "length", 2)] * 2,
        *[("new", "asked_before", 40)] * 8,
    ]


def test_more_rejects_replace_few_samples() -> None:
    """Those with the smallest hashes stay, as they would among all."""
    few = {s.question for s in filled(reject(n) for n in range(40)).samples()}
    more = {s.question for s in filled(reject(n) for n in range(44)).samples()}
    assert len(few & more) >= 8 - 4


def test_the_same_reject_is_one_sample_and_counts_every_time() -> None:
    (sample,) = filled([reject(1)] * 20).samples()
    assert sample.num_rejects == 20


def test_samples_are_short_and_read_as_written(tmp_path: Path) -> None:
    long = Reject(stage="answer", reason="truncated", question="Wäre das “so”?", text="y" * 5000)
    with filled([long], tmp_path) as funnel:
        funnel.write(num_rows=0)
    (sample,) = read_samples(tmp_path / "reject_samples.json")
    assert [sample] == funnel.samples()
    assert sample.text == "y" * 600 + "…"
    assert pq.read_table(tmp_path / "rejects.parquet").column("text")[0].as_py() == "y" * 5000


def test_much_text_is_written_before_a_batch_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BATCH_CHARS", 1000)
    long = [Reject(stage="answer", reason="truncated", text="y" * 600) for _ in range(4)]
    with filled(long, tmp_path) as funnel:
        funnel.write(num_rows=0)
    assert pq.ParquetFile(tmp_path / "rejects.parquet").num_row_groups == 2


def test_half_characters_do_not_end_a_run(tmp_path: Path) -> None:
    half = Reject(stage="answer", reason="truncated", question="Why \ud83d?", text="\ude00")
    with filled([half], tmp_path) as funnel:
        funnel.write(num_rows=0)
    (reject,) = pq.read_table(tmp_path / "rejects.parquet").to_pylist()
    assert (reject["question"], reject["text"]) == ("Why \ufffd?", "\ufffd")
    assert [s.text for s in read_samples(tmp_path / "reject_samples.json")] == ["\ufffd"]


def test_reports_of_gates_are_in_the_file_the_last_one_of_each() -> None:
    funnel = Funnel(("judge",))
    funnel.report("judge", {"is_trusted": False})
    funnel.report("judge", {"is_trusted": True})
    assert funnel.as_json(num_rows=0)["gates"] == {"judge": {"is_trusted": True}}


def test_a_funnel_without_a_directory_counts_and_writes_nothing() -> None:
    funnel = filled([reject(1)])
    assert len(funnel.samples()) == 1
    with pytest.raises(ValueError, match="without a directory"):
        funnel.write(num_rows=0)
