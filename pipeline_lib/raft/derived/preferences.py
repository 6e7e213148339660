"""Preference pairs: two answers to one prompt, one that verifies and one with a known fault.

The faulty answer is made from the good one by a program, so that its fault is known, only one, and
of a kind that verification finds:

    distractor     it quotes, correctly, a passage that does not answer, and answers from it
    stitched       a quote is put together from pieces that are verbatim one by one
    misattributed  a quote names another passage than the one that it is from
    unfounded      it answers, where no passage holds an answer
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, model_validator

from pipeline_lib.config.contexts import PreferenceConfig
from pipeline_lib.config.shares import normalized
from pipeline_lib.corpus.writing import ParquetWriter
from pipeline_lib.raft.derived.tasks import OneMore, refusal_context
from pipeline_lib.raft.facts import sentence_spans
from pipeline_lib.raft.keys import derived_row_id, unit_interval
from pipeline_lib.raft.quotes import MIN_PIECE_WORDS, fold, verify_quote
from pipeline_lib.raft.rendering import (
    REFUSAL_ANSWER,
    CitedQuote,
    ParsedStep,
    cited_steps,
    parse_answer,
    render_answer,
    render_target,
)
from pipeline_lib.raft.rows import (
    GROUP_ROWS,
    ROW_SCHEMA,
    Passage,
    RaftRow,
    Split,
    iter_records,
)
from pipeline_lib.raft.wording import content_words

PREFERENCES_FILE = "preferences.parquet"
Fault = Literal["distractor", "stitched", "misattributed", "unfounded"]

_MIN_ANSWER_WORDS = 3
_MAX_QUOTED_WORDS = 60


class PreferencePair(BaseModel):
    """One prompt with a good and a faulty answer.

    The prompt is `render_prompt(pair.question, pair.context)`. That `chosen` has no fault, and
    `rejected` exactly `fault`, is checked whenever a pair is made or read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pair_id: str
    row_id: str
    """The row that it was made of; its context is the pair's, unless its oracles were taken out."""
    split: Split
    question: str
    context: tuple[Passage, ...]
    chosen: str
    """As a model would write it."""
    rejected: str
    fault: Fault

    @model_validator(mode="after")
    def _is_what_it_says(self) -> Self:
        good, bad = faults_in(self.chosen, self.context), faults_in(self.rejected, self.context)
        if good or bad != {self.fault}:
            raise ValueError(
                f"pair {self.pair_id}: the chosen answer has the faults {sorted(good)}, and the "
                f"rejected one {sorted(bad)} instead of {self.fault!r}"
            )
        return self


PAIR_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("row_id", pa.string()),
        ("split", pa.string()),
        ("question", pa.string()),
        ("context", ROW_SCHEMA.field("context").type),
        ("chosen", pa.string()),
        ("rejected", pa.string()),
        ("fault", pa.string()),
    ]
)


class PreferenceWriter(ParquetWriter[PreferencePair]):
    """Writes pairs to one parquet file with `PAIR_SCHEMA`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, PAIR_SCHEMA, max_rows=GROUP_ROWS)


def iter_pairs(path: Path) -> Iterator[PreferencePair]:
    """Read and validate the pairs of a file, a batch in memory at a time."""
    return iter_records(path, PreferencePair)


def faults_in(text: str, context: tuple[Passage, ...]) -> frozenset[str]:
    """What is wrong with an answer, as far as it can be told without judging what it says.

    Where the context has an oracle: the status of each quote that is not verbatim in the passage
    it cites, and `distractor` for one that is, but in another passage than an oracle. Where it has
    none, the only right answer is a refusal, and `unfounded` whatever is something else.
    """
    parsed = parse_answer(text, context)
    oracles = {passage.chunk_id for passage in context if passage.role == "oracle"}
    if not oracles:
        return frozenset() if parsed.is_refusal else frozenset({"unfounded"})
    checks = [verify_quote(quote.text, quote.passage_number, context) for quote in parsed.quotes]
    return frozenset(
        "distractor" if check.status == "verbatim" else check.status
        for check in checks
        if check.status != "verbatim" or check.chunk_id not in oracles
    )


def make_pair(
    row: RaftRow, config: PreferenceConfig, *, seed: int, one_more: OneMore
) -> PreferencePair | None:
    """The pair of an `answer` row, if it draws one.

    The fault is drawn by share; where the row cannot show it (a quote too short to cut, no second
    passage), the next one is tried.

    Args:
        row: of the task `answer`.
        config: share of rows with a pair, and shares of faults.
        seed: of the dataset.
        one_more: asked for `unfounded` pairs only.
    """
    if unit_interval(seed, row.row_id, "preference") >= config.share:
        return None
    makers: Mapping[str, Callable[[], PreferencePair | None]] = {
        "distractor": lambda: _pair(row, "distractor", _from_distractors(row, seed)),
        "stitched": lambda: _pair(row, "stitched", _stitched(row)),
        "misattributed": lambda: _pair(row, "misattributed", _misattributed(row, seed)),
        "unfounded": lambda: _unfounded(row, seed, one_more),
    }
    for fault in _drawn_order(config.rejected, seed, row.row_id):
        pair = makers[fault]()
        if pair is not None:
            return pair
    return None


def _drawn_order(shares: Mapping[str, float], seed: int, row_id: str) -> list[str]:
    """Names in an order in which each comes first as often as its share says.

    Efraimidis and Spirakis (2006): the largest `u ** (1 / weight)` of uniform draws first.
    """
    weights = normalized(shares)
    keys = {
        name: unit_interval(seed, row_id, "fault", name) ** (1 / weight)
        for name, weight in weights.items()
    }
    return sorted(keys, key=lambda name: -keys[name])


def _pair(row: RaftRow, fault: Fault, rejected: Iterable[str]) -> PreferencePair | None:
    """With the first of some answers that has the fault in this row's context, and no other."""
    if row.target != "answer":
        return None
    return _made(row, row.context, render_target(row), fault, rejected)


def _made(
    row: RaftRow,
    context: tuple[Passage, ...],
    chosen: str,
    fault: Fault,
    rejected: Iterable[str],
) -> PreferencePair | None:
    if faults_in(chosen, context):
        return None
    for text in rejected:
        if faults_in(text, context) == {fault}:
            return PreferencePair(
                pair_id=derived_row_id(row.row_id, f"preference {fault}"),
                row_id=row.row_id,
                split=row.split,
                question=row.question,
                context=context,
                chosen=chosen,
                rejected=text,
                fault=fault,
            )
    return None


def _unfounded(row: RaftRow, seed: int, one_more: OneMore) -> PreferencePair | None:
    """Of an answerable row, its answer without its oracles; else an answer from a distractor."""
    refusal = render_answer((), REFUSAL_ANSWER)
    if row.target == "refuse":
        return _made(row, row.context, refusal, "unfounded", _from_distractors(row, seed))
    without = refusal_context(row, one_more) if row.target == "answer" else None
    if without is None or any(
        verify_quote(quote.text, None, without).status == "misattributed" for quote in row.quotes
    ):
        return None
    return _made(row, without, refusal, "unfounded", [render_target(row)])


def _misattributed(row: RaftRow, seed: int) -> Iterator[str]:
    """The answer with one quote cited from each of the other passages."""
    steps = cited_steps(row)
    numbers = sorted(
        range(1, len(row.context) + 1),
        key=lambda number: unit_interval(seed, row.row_id, "cited", number),
    )
    for place, step in enumerate(steps):
        for number in numbers:
            if step.quote is not None and number != step.quote.passage_number:
                yield _with_quote(steps, place, replace(step.quote, passage_number=number), row)


def _stitched(row: RaftRow) -> Iterator[str]:
    """The answer with words left out of one quote, or with words of another sentence in it."""
    texts = {passage.chunk_id: passage.text for passage in row.context}
    steps = cited_steps(row)
    quotes = iter(row.quotes)
    for place, step in enumerate(steps):
        if step.quote is not None:
            text = texts[next(quotes).chunk_id]
            for patched in _patchworks(step.quote.text, text):
                yield _with_quote(steps, place, replace(step.quote, text=patched), row)


def _patchworks(quote: str, text: str) -> Iterator[str]:
    words = quote.split()
    num_left_out = max(1, len(words) // 4)
    start = (len(words) - num_left_out) // 2
    if start >= MIN_PIECE_WORDS:
        yield " ".join([*words[:start], *words[start + num_left_out :]])
    head = words[: max(MIN_PIECE_WORDS, len(words) // 2)]
    for left, right in sentence_spans(text):
        tail = text[left:right].split()[-max(MIN_PIECE_WORDS, len(words) // 2) :]
        if len(head) >= MIN_PIECE_WORDS <= len(tail):
            yield " ".join([*head, *tail])


def _with_quote(steps: list[ParsedStep], place: int, quote: CitedQuote, row: RaftRow) -> str:
    changed = [*steps[:place], replace(steps[place], quote=quote), *steps[place + 1 :]]
    return render_answer(changed, row.final_answer)


def _from_distractors(row: RaftRow, seed: int) -> Iterator[str]:
    """Answers that rest on a sentence of a distractor, the likeliest to mislead first.

    The sentence that shares most words with the question is quoted, and its last words, where
    English puts what is new, are the answer: about as many as the right answer has.
    """
    asked = set(content_words(row.question))
    places = []
    for number, passage in enumerate(row.context, start=1):
        if passage.role == "distractor":
            for start, end in sentence_spans(passage.text):
                sentence = fold(passage.text[start:end])
                shared = len(asked & set(content_words(sentence)))
                draw = unit_interval(seed, row.row_id, "sentence", passage.chunk_id, start)
                places.append((-shared, draw, number, sentence))
    opening = _opening(row)
    for _, _, number, sentence in sorted(places):
        wrong = _wrong_answer(sentence, row)
        if wrong is not None:
            yield render_answer([ParsedStep(opening, CitedQuote(sentence, number))], wrong)


def _wrong_answer(sentence: str, row: RaftRow) -> str | None:
    """The end of a sentence that neither holds the right answer nor is part of it."""
    words = sentence.split()
    right = fold(row.final_answer).casefold().rstrip(".")
    is_refusal = row.target == "refuse"
    wanted = max(_MIN_ANSWER_WORDS, 0 if is_refusal else len(right.split()))
    if not wanted < len(words) <= _MAX_QUOTED_WORDS:
        return None
    wrong = " ".join(words[-wanted:]).rstrip(".;:,")
    if not is_refusal and (right in sentence.casefold() or wrong.casefold() in right):
        return None
    return wrong


def _opening(row: RaftRow) -> str:
    """The row's first words of reasoning, unless they give the right answer away."""
    first = row.reasoning[0].text if row.reasoning else ""
    return "" if fold(row.final_answer).casefold().rstrip(".") in first.casefold() else first
