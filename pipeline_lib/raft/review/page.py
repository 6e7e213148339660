"""The review page: one HTML file that needs nothing else and asks nobody.

Rows travel as JSON inside the page, and its script builds every element from text, never from
markup; the content security policy allows no request and no script but this one. So whatever a
document says, it is shown and does nothing. Verdicts stay in the reviewer's browser until they are
downloaded as `verdicts.json`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.raft.quotes import find_folded
from pipeline_lib.raft.review.files import FORMAT
from pipeline_lib.raft.review.sample import ReviewPassage, ReviewRow, ReviewSample
from pipeline_lib.raft.review.verdicts import MAX_QUESTION_LENGTH, MAX_TEXT_LENGTH

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE_FILE = "review.html"
TABLE_FILE = "review.csv"


def write_page(sample: ReviewSample, path: Path) -> None:
    """Write the page for a sample."""
    path.write_text(render_page(sample), encoding="utf-8")


def render_page(sample: ReviewSample) -> str:
    """The page as one HTML document."""
    script = _environment().get_template("review.js").render()
    style = _environment().get_template("review.css").render()
    return (
        _environment()
        .get_template("review.html")
        .render(
            name=sample.dataset.name,
            data=_embedded(_view(sample)),
            script=script,
            style=style,
            script_hash=_csp_hash(script),
            style_hash=_csp_hash(style),
        )
    )


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("pipeline_lib.raft.review"),
        autoescape=True,
        undefined=StrictUndefined,
    )


def _csp_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _embedded(value: Any) -> str:
    """JSON that cannot end the element it stands in, nor begin a comment there."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _view(sample: ReviewSample) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "dataset": sample.dataset.key,
        "name": sample.dataset.name,
        "num_eligible": sample.num_eligible,
        "max_question": MAX_QUESTION_LENGTH,
        "max_text": MAX_TEXT_LENGTH,
        "rows": [_row_view(each) for each in sample.rows],
    }


def _row_view(each: ReviewRow) -> dict[str, Any]:
    row, verdict = each.row, each.verdict
    numbers = {passage.chunk_id: passage.number for passage in each.passages}
    steps: list[dict[str, Any]] = []
    places: dict[str, list[tuple[int, int, int]]] = {}
    for step in row.reasoning:
        view: dict[str, Any] = {"text": step.text}
        if step.quote is not None:
            quote = step.quote
            number = 1 + sum("quote" in before for before in steps)
            view |= {"quote": quote.text, "number": number, "doc": numbers[quote.chunk_id]}
            places.setdefault(quote.chunk_id, []).append((quote.start, quote.end, number))
        steps.append(view)
    return {
        "id": row.row_id,
        "question": row.question,
        "answer": row.final_answer,
        "kind": row.kind,
        "style": row.style,
        "split": row.split,
        "target": row.target,
        "source": row.provenance.question_source,
        "steps": steps,
        "passages": [
            _passage_view(passage, places.get(passage.chunk_id, []), row.final_answer)
            for passage in each.passages
        ],
        "verdict": verdict
        and verdict.model_dump(
            include={"decision", "edited_question", "edited_answer", "comment", "reviewer"}
        ),
    }


def _passage_view(
    passage: ReviewPassage, quotes: list[tuple[int, int, int]], answer: str
) -> dict[str, Any]:
    found = _answer_place(answer, passage.text) if passage.is_oracle else None
    return {
        "number": passage.number,
        "is_oracle": passage.is_oracle,
        "title": passage.title,
        "source": passage.source_uri,
        "origin": passage.origin,
        "change": passage.change,
        "pieces": _pieces(passage.text, quotes, found),
    }


def _answer_place(answer: str, text: str) -> tuple[int, int] | None:
    """Where the answer stands in the text in whole words; a `5` in `15` is none."""
    found = find_folded(answer, text)
    if found is None:
        return None
    around = text[max(0, found[0] - 1) : found[0]], text[found[1] : found[1] + 1]
    return None if any(character.isalnum() for character in around) else found


def _pieces(
    text: str, quotes: list[tuple[int, int, int]], answer: tuple[int, int] | None
) -> list[list[Any]]:
    """The text cut where a quote, or the answer, begins or ends.

    Cut here and not in the browser, whose offsets count UTF-16 units. Each piece is its text, the
    numbers of the quotes that hold it, and whether it is the answer.
    """
    spans = [(start, end) for start, end, _ in quotes] + ([answer] if answer else [])
    borders = sorted({0, len(text), *(place for span in spans for place in span)})
    return [
        [
            text[start:end],
            [number for first, last, number in quotes if first <= start and end <= last],
            bool(answer and answer[0] <= start and end <= answer[1]),
        ]
        for start, end in pairwise(borders)
    ]
