from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.errors import InputError
from pipeline_lib.raft.candidates import Rejection
from pipeline_lib.raft.dataset.decontamination import COMMON_FROM, PASSAGE_WORDS, Decontaminator

WORDS = [f"w{n}" for n in range(60)]
PASSAGE = " ".join(WORDS)
QUESTION = "What does the committee decide about the harbour wall in winter?"


def protecting(*passages: str, question: str = "") -> Decontaminator:
    made = Decontaminator()
    for passage in passages:
        made.protect(question, [passage])
    return made


def reason(rejection: Rejection | None) -> str | None:
    return rejection.reason if rejection else None


@given(st.integers(0, 60), st.integers(0, 60))
def test_a_passage_is_refused_exactly_when_thirteen_words_in_a_row_are_protected(
    start: int, length: int
) -> None:
    shared = WORDS[start : start + length]
    found = protecting(PASSAGE).check_passages([" ".join(["before", *shared, "after"])])
    assert (found is not None) == (len(shared) >= PASSAGE_WORDS)


def test_case_punctuation_and_white_space_do_not_hide_a_passage() -> None:
    disguised = ",\n".join(word.upper() for word in WORDS[10:30]) + "!"
    found = protecting(PASSAGE).check_passages(["unrelated words", disguised])
    assert found == Rejection(
        "decontamination",
        "passage_of_evaluation",
        "test split: " + " ".join(WORDS[10:23]),
    )


def test_boilerplate_that_many_protected_texts_have_does_not_count() -> None:
    header = " ".join(WORDS[:20])
    texts = [f"{header} text number {n} says something of its own" for n in range(COMMON_FROM)]
    assert protecting(*texts[:-1]).check_passages([header]) is not None
    assert protecting(*texts).check_passages([header]) is None


def test_a_passage_that_is_protected_with_many_questions_is_no_boilerplate() -> None:
    assert protecting(*[PASSAGE] * 50).check_passages([PASSAGE]) is not None


@pytest.mark.parametrize(
    "question",
    [
        QUESTION,
        QUESTION.upper(),
        "What did the committee decide about a harbour wall in winter",
    ],
)
def test_a_question_that_says_nearly_the_same_is_refused(question: str) -> None:
    found = protecting("", question=QUESTION).check(question, [])
    assert reason(found) == "question_of_evaluation"


def test_a_question_within_a_longer_one_is_found_by_its_words_in_order() -> None:
    """18 words, 11 8-grams; with four more content words 11 of 15, while Jaccard is about 0.7."""
    long = (
        "Which of the harbour walls did the committee of northern towns decide to repair before "
        "the storms came"
    )
    made = protecting("", question=long)
    assert made.check(f"{long} despite rising copper prices", []) is not None
    assert (
        made.check(" ".join(reversed(long.split())) + " despite rising copper prices", []) is None
    )


@pytest.mark.parametrize(
    "question",
    [
        "What does the committee decide about the city gate in summer?",
        "Who built the harbour wall?",
        "",
    ],
)
def test_another_question_passes(question: str) -> None:
    assert protecting("", question=QUESTION).check(question, ["a passage"]) is None


def test_without_anything_protected_all_passes() -> None:
    assert Decontaminator.load([]).check(QUESTION, [PASSAGE]) is None
    assert Decontaminator.load([]).sha256 == ""


JSONL = "\n".join(
    json.dumps(record)
    for record in (
        {"id": 1, "input": "harbour wall winter committee decision", "answer": "nothing"},
        {"messages": [{"role": "user", "content": QUESTION}, {"role": "x", "content": PASSAGE}]},
        {"data": {"paragraphs": [{"context": "Other words entirely " * 5}]}},
    )
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", JSONL),
        ("a.json", json.dumps([json.loads(line) for line in JSONL.splitlines()])),
        ("a.csv", f'id,query,text\n1,"{QUESTION}","{PASSAGE}"\n'),
        ("a.tsv", f"query\ttext\n{QUESTION}\t{PASSAGE}\n"),
        ("a.txt", f"Some heading\n\n{QUESTION}\nAnd so on.\n\n{PASSAGE[:120]}\n{PASSAGE[120:]}"),
        ("a.md", f"{PASSAGE}\n\n{QUESTION}\n"),
    ],
)
def test_files_are_read_whatever_their_fields_are_called(
    tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    made = Decontaminator.load([tmp_path / name])
    assert reason(made.check(QUESTION, [])) == "question_of_evaluation"
    found = made.check("What else?", [PASSAGE])
    assert reason(found) == "passage_of_evaluation"
    assert found is not None
    assert found.text.startswith(f"{name}")


def test_an_answer_is_not_taken_for_a_question(tmp_path: Path) -> None:
    """Else "What is photosynthesis?" would fall to a benchmark whose answer is that word."""
    (tmp_path / "a.jsonl").write_text('{"question": "How do leaves live?", "answer": "Sunlight"}')
    made = Decontaminator.load([tmp_path / "a.jsonl"])
    assert made.check("What is sunlight?", []) is None
    assert reason(made.check("How do the leaves live?", [])) == "question_of_evaluation"


def test_the_content_of_files_counts_and_not_their_place(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    paths = [tmp_path / "a.txt", tmp_path / "folder" / "b.txt"]
    for path in paths:
        path.write_text("the same")
    first, second = (Decontaminator.load([path]).sha256 for path in paths)
    assert first == second != ""
    assert Decontaminator.load(paths).sha256 == first
    paths[1].write_text("another")
    assert Decontaminator.load(paths).sha256 == Decontaminator.load(paths[::-1]).sha256 != first


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b'{"question": '),
        ("a.json", b"[" * 100_000),
        ("a.json", b"[" * 60 + b'"x"' + b"]" * 60),
        ("a.txt", b"\xff\xfe\x00"),
        ("a.csv", b"a\n" + b"x" * 200_000 + b"\n"),
        ("missing.txt", None),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_that_names_it(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name) as caught:
        Decontaminator.load([tmp_path / name])
    assert "decontaminate_paths" in str(caught.value.hint)
