"""TREC files: retrieval runs and qrels that trec_eval and ir_measures read as we scored them.

trec_eval splits lines at white space, ignores the rank column, orders by score in single precision
and breaks ties by document id. So ids are escaped, and scores are written such that, as single
precision numbers, they strictly decrease: where two are equal the second is lowered by one unit in
its last place. The order is then ours, and scores are otherwise what the search gave.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from pipeline_lib.errors import InputError
from pipeline_lib.evaluation.retrieval.lines import text_lines

Ranking = Sequence[tuple[str, float]]
"""Ids with scores, best first."""

# What `str.split` splits at, what C's `isspace` does, and the escape's own mark.
_UNSAFE = re.compile(r"[\s%\x00-\x20\x7f\x85\xa0]")


def escape_id(name: str) -> str:
    """An id as one TREC field: white space, control characters and `%` become `%20` and so on.

    Raises:
        ValueError: the id is empty, which no escape can save.
    """
    if not name:
        raise ValueError("an empty id cannot be written to a TREC file")
    return _UNSAFE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), name)


def unescape_id(text: str) -> str:
    """The id that `escape_id` wrote."""
    return unquote(text, errors="strict") if "%" in text else text


def write_run(path: Path, rankings: Mapping[str, Ranking], tag: str) -> None:
    """Write a run: `query Q0 document rank score tag`, ranks from 1.

    Args:
        path: the file.
        rankings: query id to its ranking, no id twice.
        tag: the system's name.
    """
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for query, ranking in rankings.items():
            scores = strictly_decreasing([score for _, score in ranking])
            for rank, ((name, _), score) in enumerate(zip(ranking, scores, strict=True), start=1):
                file.write(
                    f"{escape_id(query)} Q0 {escape_id(name)} {rank} {score:.9g} {escape_id(tag)}\n"
                )


def strictly_decreasing(scores: Sequence[float]) -> list[float]:
    """The scores in single precision, each below the one before it."""
    lowered: list[float] = []
    bound = np.float32(np.inf)
    for score in scores:
        bound = min(np.float32(score), np.nextafter(bound, np.float32(-np.inf)))
        lowered.append(float(bound))
    return lowered


def read_run(path: Path) -> dict[str, list[tuple[str, float]]]:
    """Query id to its ranking, ordered by score as trec_eval orders (ties: larger id first).

    Raises:
        InputError: a row is broken, or a query names a document twice.
    """
    found: dict[str, dict[str, float]] = {}
    for line in text_lines(path):
        fields = line.text.split()
        if len(fields) != 6:
            wanted = "query, Q0, document, rank, score, tag"
            raise line.error(f"{len(fields)} columns instead of {wanted}")
        query, name = unescape_id(fields[0]), unescape_id(fields[2])
        try:
            score = float(fields[4])
        except ValueError as error:
            raise line.error(f"the score {fields[4]!r} is not a number") from error
        scores = found.setdefault(query, {})
        if name in scores:
            raise line.error(f"{name!r} comes a second time for {query!r}")
        scores[name] = score
    if not found:
        raise InputError(f"{path} holds no run")
    return {
        query: sorted(scores.items(), key=lambda item: (item[1], item[0]), reverse=True)
        for query, scores in found.items()
    }


def write_qrels(path: Path, relevance: Mapping[str, Mapping[str, int]]) -> None:
    """Write judgements as TREC has them: `query 0 document gain`."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for query, gains in relevance.items():
            for name, gain in gains.items():
                file.write(f"{escape_id(query)} 0 {escape_id(name)} {gain}\n")
