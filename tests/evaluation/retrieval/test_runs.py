"""TREC files: written as we ranked, read the same by ir_measures and pytrec_eval, and by us."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import ir_measures
import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import RR, nDCG

from pipeline_lib.errors import InputError
from pipeline_lib.evaluation.retrieval.judgements import read_qrels
from pipeline_lib.evaluation.retrieval.runs import (
    escape_id,
    read_run,
    strictly_decreasing,
    unescape_id,
    write_qrels,
    write_run,
)


@given(st.text(min_size=1))
def test_an_escaped_id_is_one_field_and_comes_back(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        return  # half a surrogate pair: no text
    escaped = escape_id(name)
    assert escaped.split() == [escaped]
    assert unescape_id(escaped) == name


def test_plain_ids_stay_as_they_are_and_empty_ones_are_refused() -> None:
    assert escape_id("doc-1/ä#x") == "doc-1/ä#x"
    assert escape_id("50% of it\t") == "50%25%20of%20it%09"
    with pytest.raises(ValueError, match="empty id"):
        escape_id("")


@given(st.lists(st.floats(-1e6, 1e6), max_size=20).map(lambda scores: sorted(scores)[::-1]))
def test_written_scores_strictly_decrease_in_single_precision(scores: list[float]) -> None:
    lowered = strictly_decreasing(scores)
    as_read = [np.float32(f"{score:.9g}") for score in lowered]
    assert all(a > b for a, b in pairwise(as_read))


def test_ties_keep_our_order_in_every_reader(tmp_path: Path) -> None:
    """trec_eval breaks ties by document id, which would put z first."""
    run, qrels = tmp_path / "run.trec", tmp_path / "qrels.trec"
    rankings = {"a query": [("a", 0.5), ("z z", 0.5), ("m", 0.5)], "q2": [("m", 0.1), ("a", 0.05)]}
    relevance = {"a query": {"a": 1, "z z": 0}, "q2": {"a": 2}}
    write_run(run, rankings, "my system")
    write_qrels(qrels, relevance)
    assert run.read_text().splitlines()[0] == "a%20query Q0 a 1 0.5 my%20system"
    assert {query: [name for name, _ in ranking] for query, ranking in read_run(run).items()} == {
        "a query": ["a", "z z", "m"],
        "q2": ["m", "a"],
    }
    assert read_qrels(qrels) == relevance
    judged = list(ir_measures.read_trec_qrels(str(qrels)))
    found = list(ir_measures.read_trec_run(str(run)))
    values = {
        (value.query_id, str(value.measure)): value.value
        for value in ir_measures.iter_calc([RR, nDCG @ 2], judged, found)
    }
    assert values["a%20query", "RR"] == 1.0
    assert values["q2", "RR"] == 0.5
    with run.open() as file, qrels.open() as judgements:
        results = pytrec_eval.RelevanceEvaluator(
            pytrec_eval.parse_qrel(judgements), {"recip_rank"}
        ).evaluate(pytrec_eval.parse_run(file))
    assert results["a%20query"]["recip_rank"] == 1.0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("q1 Q0 d1 1 0.5", "line 2: 5 columns instead of query, Q0"),
        ("q1 Q0 d2 1 high tag", "line 2: the score 'high' is not a number"),
        ("q1 Q0 d1 2 0.4 tag", "line 2: 'd1' comes a second time for 'q1'"),
    ],
)
def test_a_broken_run_is_named_by_file_and_line(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "run.trec"
    path.write_text(f"q1 Q0 d1 1 0.5 tag\n{line}\n")
    with pytest.raises(InputError, match=words):
        read_run(path)
    path.write_text("")
    with pytest.raises(InputError, match="holds no run"):
        read_run(path)
