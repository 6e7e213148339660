"""The whole stage on real S3, when the user gives questions and answers."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq


def write_pairs(folder: Path, *pairs: dict[str, str]) -> str:
    path = folder / "qa.jsonl"
    path.write_text("\n".join(json.dumps(pair) for pair in pairs))
    return str(path)


def animal_pairs(corpus, count: int = 12) -> list[dict[str, str]]:
    pairs = []
    for number in range(count):
        text = corpus.chunks[number].text
        animal = text.split()[2]
        pairs.append(
            {
                "question": f"What does the {animal} do when it is hungry?",
                "answer": "it quietly collects " + text.split("collects ")[1].split()[0],
                "document_id": (
                    corpus.documents[number].document_id,
                    corpus.documents[number].source_uri,
                    f"{number:02}.txt",
                )[number % 3],
            }
        )
    return pairs


def test_the_users_pairs_become_rows_word_for_word(stand, teacher, small_config, tmp_path) -> None:
    pairs = animal_pairs(stand.corpus)
    config = small_config.model_copy(update={"qa_path": write_pairs(tmp_path, *pairs)})
    result = stand.synthesize(teacher, config)
    rows = stand.rows(result)
    assert {row.question for row in rows} == {pair["question"] for pair in pairs}
    answers = {pair["question"]: pair["answer"] for pair in pairs}
    for row in rows:
        assert row.provenance.question_source == row.provenance.answer_source == "user"
        if row.oracle_present:
            assert row.final_answer == answers[row.question]
            assert row.final_answer in row.quotes[0].text
            assert row.reasoning[0].text.startswith("The document says that")
    assert teacher.scored == []
    assert len(teacher.asked) == 12


def test_without_document_id_the_passage_is_found_by_retrieval(
    stand, teacher, small_config, tmp_path
) -> None:
    pairs = [
        {key: value for key, value in pair.items() if key != "document_id"}
        for pair in animal_pairs(stand.corpus)
    ]
    config = small_config.model_copy(update={"qa_path": write_pairs(tmp_path, *pairs)})
    rows = stand.rows(stand.synthesize(teacher, config))
    assert len(rows) == 12
    for row in rows:
        number = int(row.oracle_chunk_id[-2:])
        assert row.question == pairs[number]["question"]


def test_rows_of_pairs_that_still_hold_are_taken_over(
    stand, teacher, scripted, small_config, tmp_path
) -> None:
    pairs = animal_pairs(stand.corpus)
    config = small_config.model_copy(update={"qa_path": write_pairs(tmp_path, *pairs)})
    before = {row.row_id: row for row in stand.rows(stand.synthesize(teacher, config))}
    pairs.append(animal_pairs(stand.corpus, 13)[12])
    config = config.model_copy(
        update={"qa_path": write_pairs(tmp_path, *pairs), "num_questions": 13}
    )
    later = scripted(teacher.script)
    result = stand.synthesize(later, config)
    after = {row.row_id: row for row in stand.rows(result)}
    assert result.counts["num_carried_over"] == 12
    assert {row_id: after[row_id] for row_id in before} == before
    assert len(later.asked) == 1


def test_an_answer_that_the_user_corrects_is_explained_anew(
    stand, teacher, scripted, small_config, tmp_path
) -> None:
    pairs = animal_pairs(stand.corpus)
    config = small_config.model_copy(update={"qa_path": write_pairs(tmp_path, *pairs)})
    rows = stand.rows(stand.synthesize(teacher, config))
    corrected = next(row for row in rows if row.target == "answer")
    pair = next(pair for pair in pairs if pair["question"] == corrected.question)
    pair["answer"] = pair["answer"].replace("it quietly", "quietly")
    config = small_config.model_copy(update={"qa_path": write_pairs(tmp_path, *pairs)})
    later = scripted(teacher.script)
    again = {row.question: row for row in stand.rows(stand.synthesize(later, config))}
    assert again[corrected.question].final_answer == pair["answer"]
    assert len(later.asked) == 1


def test_pairs_that_cannot_be_used_are_counted_with_their_lines(
    stand, teacher, small_config, tmp_path
) -> None:
    pairs = animal_pairs(stand.corpus)
    pairs[0]["document_id"] = "no-such-document"
    pairs[1]["answer"] = "it sings loudly"
    pairs[2]["answer"] = ""
    config = small_config.model_copy(update={"qa_path": write_pairs(tmp_path, *pairs)})
    result = stand.synthesize(teacher, config)
    assert result.dropped == {
        "pair.no_answer": 1,
        "pair.unknown_document": 1,
        "support.answer_not_supported": 1,
    }
    folder = stand.ws.artifacts.directory(result.ref)
    rejects = pq.read_table(folder / "rejects.parquet").to_pylist()
    assert {(r["reason"], r["text"].split(":")[0]) for r in rejects} == {
        ("no_answer", "line 3"),
        ("unknown_document", "line 1"),
        ("answer_not_supported", "line 2"),
    }
    assert stand.funnel(result)["num_candidates"] == 12


def test_a_weak_teacher_loses_no_pair_of_the_users(stand, scripted, small_config, tmp_path) -> None:
    path = write_pairs(tmp_path, *animal_pairs(stand.corpus))
    config = small_config.model_copy(update={"qa_path": path})
    result = stand.synthesize(scripted(lambda _: " The document says that unicorns fly."), config)
    rows = stand.rows(result)
    assert len(rows) == 12
    assert {step.text for row in rows for step in row.reasoning} == {""}
    assert stand.ws.artifacts.manifest(result.ref).details["num_without_reasoning"] == 12


def test_more_pairs_than_wanted_are_drawn_by_seed_and_counted(
    stand, teacher, small_config, tmp_path
) -> None:
    path = write_pairs(tmp_path, *animal_pairs(stand.corpus, 24))
    config = small_config.model_copy(update={"qa_path": path})
    result = stand.synthesize(teacher, config)
    assert result.counts["num_rows"] == 12
    assert result.dropped == {"wanted.more_than_num_questions": 12}


def test_the_users_file_counts_by_its_content(stand, teacher, small_config, tmp_path) -> None:
    pairs = animal_pairs(stand.corpus)
    (tmp_path / "moved").mkdir()
    first = stand.synthesize(
        teacher, small_config.model_copy(update={"qa_path": write_pairs(tmp_path, *pairs)})
    )
    moved = small_config.model_copy(update={"qa_path": write_pairs(tmp_path / "moved", *pairs)})
    assert stand.synthesize(teacher, moved).reused
    changed = small_config.model_copy(
        update={"qa_path": write_pairs(tmp_path, *pairs[:11], {**pairs[11], "question": "Why?"})}
    )
    assert stand.synthesize(teacher, changed).ref != first.ref
