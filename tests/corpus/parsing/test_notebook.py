"""Notebooks: a segment a cell."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from pipeline_lib.corpus.parsing.base import ParsedDocument, Segment
from pipeline_lib.corpus.schema import Drop

ParseOne = Callable[..., ParsedDocument]
Refuse = Callable[..., Drop]


def code(source: str | list[str], *outputs: dict[str, Any]) -> dict[str, Any]:
    return {"cell_type": "code", "source": source, "outputs": list(outputs)}


def test_cells_with_code_and_short_outputs(parse_one: ParseOne) -> None:
    notebook = {
        "nbformat": 4,
        "metadata": {"kernelspec": {"language": "R"}, "title": "Parcels"},
        "cells": [
            {"cell_type": "markdown", "source": ["# Returns\n", "\n", "How many?"]},
            code([], {"text": "left out: no code"}),
            code(
                "nrow(parcels)",
                {"output_type": "stream", "text": ["[1] 17\n"]},
                {"output_type": "execute_result", "data": {"text/plain": "x" * 501}},
                {"data": {"text/plain": "<Figure size 640x480>", "image/png": "iVBOR"}},
                {"output_type": "error", "traceback": ["..."]},
            ),
            code("print('```')"),
            {"cell_type": "raw", "source": "raw text"},
        ],
    }
    parsed = parse_one(json.dumps(notebook).encode(), "file:a.ipynb")
    assert parsed.segments == (
        Segment(text="# Returns\n\nHow many?", kind="cell", label="1"),
        Segment(text="```r\nnrow(parcels)\n```\n\n```text\n[1] 17\n```", kind="cell", label="3"),
        Segment(text="````r\nprint('```')\n````", kind="cell", label="4"),
        Segment(text="raw text", kind="cell", label="5"),
    )
    assert (parsed.title, parsed.metadata) == ("Parcels", {"programming_language": "r"})


def test_the_format_of_before_2015(parse_one: ParseOne) -> None:
    cells = [
        {"cell_type": "heading", "level": 2, "source": "Old"},
        {"cell_type": "code", "input": "x = 1", "outputs": []},
    ]
    notebook = {"nbformat": 3, "metadata": {}, "worksheets": [{"cells": cells}]}
    parsed = parse_one(json.dumps(notebook).encode(), "file:a.ipynb")
    assert [s.text for s in parsed.segments] == ["## Old", "```python\nx = 1\n```"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "broken_file"),
        (b"[1]", "broken_file"),
        (b'{"a": 1}', "broken_file"),
        (b"[" * 100_000, "broken_file"),
        (b'{"cells": []}', "empty"),
        (b'{"cells": [1, null, {"source": 5}, {"cell_type": "code", "outputs": 3}]}', "empty"),
    ],
)
def test_what_is_no_notebook_is_a_drop(refuse: Refuse, data: bytes, reason: str) -> None:
    assert refuse(data, "file:a.ipynb").reason == reason
