"""Queries and judgements as people have them, and what a broken row gets."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from pipeline_lib.errors import InputError
from pipeline_lib.evaluation.retrieval.judgements import (
    Span,
    find_files,
    read_judgements,
    read_qrels,
    read_queries,
    read_spans,
)


def _file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


QUERIES = '{"_id": "q1", "text": "What is red?"}\n\n{"_id": "q2", "text": "What is blue?"}\n'


def test_beirs_layout_is_read_plain_or_gzipped(tmp_path: Path) -> None:
    _file(tmp_path, "queries.jsonl.gz", QUERIES)
    _file(tmp_path, "qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\ta doc\t2\nq1\td2\t0\n")
    judgements = read_judgements(find_files(tmp_path))
    assert judgements.queries == {"q1": "What is red?"}
    assert judgements.documents == {"q1": {"a doc": 2, "d2": 0}}
    assert judgements.dropped == {"query_without_relevant_document": 1}


def test_trec_qrels_and_queries_separated_by_tabs_are_read(tmp_path: Path) -> None:
    queries = _file(tmp_path, "topics.tsv", "301\tinternational crime\n302\tpolio\n")
    qrels = _file(tmp_path, "robust.qrels", "301 0 FBIS3-1 1\n301\t0\tFBIS3-2\t-1\n302 0 a%20b 1\n")
    judgements = read_judgements(find_files(None, queries, qrels))
    assert judgements.queries == {"301": "international crime", "302": "polio"}
    assert judgements.documents["301"] == {"FBIS3-1": 1, "FBIS3-2": -1}
    assert judgements.documents["302"] == {"a b": 1}


def test_named_files_take_the_place_of_the_folders(tmp_path: Path) -> None:
    _file(tmp_path, "queries.jsonl", QUERIES)
    _file(tmp_path, "qrels.tsv", "q1\td1\t1\n")
    other = _file(tmp_path, "other.tsv", "q2\td9\t1\n")
    assert read_judgements(find_files(tmp_path, qrels=other)).documents == {"q2": {"d9": 1}}


def test_any_byte_of_a_file_changes_their_hash(tmp_path: Path) -> None:
    _file(tmp_path, "queries.jsonl", QUERIES)
    _file(tmp_path, "qrels.tsv", "q1\td1\t1\n")
    before = find_files(tmp_path).sha256
    assert find_files(tmp_path).sha256 == before
    _file(tmp_path, "qrels.tsv", "q1\td1\t2\n")
    assert find_files(tmp_path).sha256 != before


def test_spans_name_their_document_or_the_row_does(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        "qa.jsonl",
        '{"id": "q1", "gold_doc_ids": ["d1"], "spans": [{"start": 3, "end": 9, "text": "abcdef"}]}'
        '\n{"id": "q2", "question": "no spans"}\n'
        '{"id": "q3", "spans": [{"doc_id": "d2", "start": 0, "end": 1}]}\n',
    )
    assert read_spans(path) == {
        "q1": (Span("d1", 3, 9, "abcdef"),),
        "q3": (Span("d2", 0, 1),),
    }


def test_judgements_of_unknown_queries_are_counted(tmp_path: Path) -> None:
    _file(tmp_path, "queries.jsonl", QUERIES)
    _file(tmp_path, "qrels.tsv", "q1\td1\t1\nq2\td1\t1\nq9\td1\t1\n")
    assert read_judgements(find_files(tmp_path)).dropped == {"judgement_of_unknown_query": 1}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("queries.jsonl", '{"_id": "q1", "text": "a"}\n{"_id"\n', "line 2: not JSON"),
        ("queries.jsonl", "[1]\n", "line 1: a JSON list instead of an object"),
        ("queries.jsonl", '{"text": "a"}\n', r"line 1: none of the fields _id, id, query_id \(it"),
        ("queries.jsonl", '{"_id": "q1"}\n', r"line 1: none of the fields text"),
        ("queries.jsonl", '{"_id": "q1", "text": " "}\n', "line 1: a query needs an id and a text"),
        ("queries.jsonl", QUERIES + '{"_id": "q1", "text": "a"}', "line 4: the query id 'q1'"),
        ("queries.jsonl", "\n\n", "holds no queries"),
        ("queries.tsv", "q1 no tab\n", "line 1: no tab"),
    ],
)  # fmt: skip
def test_a_broken_query_is_named_by_file_and_line(
    tmp_path: Path, name: str, text: str, words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read_queries(_file(tmp_path, name, text))
    assert name in caught.value.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("q\td\ts\nq1\td1\tmany\n", "line 2: the gain 'many' is not a whole number"),
        ("q1\td1\t1\nq1\td2\n", "line 2: 2 columns instead of query, document, gain"),
        ("q1 0 d1 1\nq1 0 d2\n", "line 2: 3 columns instead of query, 0, document, gain"),
        ("q1 0 d1 high\n", "line 1: the gain 'high'"),
        ("q1\td1\t1\nq1\td1\t2\n", "line 2: 'd1' was judged 1 for 'q1' before"),
        ("query-id\tcorpus-id\tscore\n", "holds no judgements"),
    ],
)
def test_a_broken_judgement_is_named_by_file_and_line(
    tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        read_qrels(_file(tmp_path, "qrels.tsv", text))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"id": "q", "gold_doc_ids": ["d"], "spans": [{"start": 5, "end": 5}]}', "from 5 to 5"),
        ('{"id": "q", "gold_doc_ids": ["d"], "spans": [{"start": -1, "end": 5}]}', "from -1 to 5"),
        ('{"id": "q", "spans": [{"start": 1, "end": 5}]}', "does not say which document"),
        ('{"id": "q", "gold_doc_ids": ["d"], "spans": ["text"]}', "a span is an object"),
        ('{"id": "q", "gold_doc_ids": ["d"], "spans": 7}', "'spans' is not a list"),
    ],
)
def test_a_broken_span_is_named_by_line(tmp_path: Path, row: str, words: str) -> None:
    with pytest.raises(InputError, match=f"line 1: .*{words}"):
        read_spans(_file(tmp_path, "spans.jsonl", row))


def test_files_that_are_no_text_are_named(tmp_path: Path) -> None:
    latin = tmp_path / "queries.tsv"
    latin.write_bytes("q1\tgood\nq2\tcafé\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"queries.tsv, line 2: not UTF-8"):
        read_queries(latin)
    broken = tmp_path / "queries.jsonl.gz"
    broken.write_bytes(gzip.compress(QUERIES.encode())[:-10])
    with pytest.raises(InputError, match=r"queries.jsonl.gz cannot be read"):
        read_queries(broken)
    broken.write_bytes(b"plain")
    with pytest.raises(InputError, match="cannot be read"):
        read_queries(broken)


def test_a_byte_order_mark_is_no_part_of_an_id(tmp_path: Path) -> None:
    path = tmp_path / "queries.tsv"
    path.write_bytes(b"\xef\xbb\xbfq1\twhat\r\n")
    assert read_queries(path) == {"q1": "what"}


def test_a_missing_folder_or_file_says_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder") as caught:
        find_files(tmp_path / "nowhere")
    assert "queries.jsonl and qrels.tsv" in str(caught.value.hint)
    _file(tmp_path, "queries.jsonl", QUERIES)
    with pytest.raises(InputError, match=r"has none of qrels.tsv"):
        find_files(tmp_path)
    with pytest.raises(InputError, match="There is no file"):
        find_files(tmp_path, qrels=tmp_path / "nothing.tsv")
