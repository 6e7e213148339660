"""Answers that are known to be bad: a row's own, spoilt in one way.

Each fault says which rewards must see it; what the others make of it is left open.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline_lib.config.contexts import PreferenceConfig
from pipeline_lib.raft.derived.preferences import make_pair
from pipeline_lib.raft.matching import token_f1
from pipeline_lib.raft.rendering import (
    REFUSAL_ANSWER,
    CitedQuote,
    ParsedStep,
    cited_steps,
    render_answer,
    render_target,
)
from pipeline_lib.raft.rows import RaftRow

FAULTS: Mapping[str, tuple[str, ...]] = {
    "wrong_answer": ("answer",),
    "wrong_number": ("answer",),
    "refused": ("answer", "refusal", "verbatim", "grounded"),
    "no_quotes": ("verbatim", "grounded"),
    "one_word_quotes": ("verbatim", "grounded"),
    "reordered_quotes": ("verbatim", "grounded"),
    "stitched": ("verbatim", "grounded"),
    "misattributed": ("verbatim",),
    "distractor": ("answer", "grounded"),
    "unfounded": ("answer", "refusal", "grounded"),
    "answered": ("answer", "refusal"),
    "cut": ("answer", "format"),
    "cut_inside_answer": ("format",),
    "repeated": ("format",),
}
"""Fault to the rewards that must see it. Those that `raft.derived.preferences` knows are its own;
`answered` is another row's answer where the row refuses."""

_FROM_PREFERENCES = ("stitched", "misattributed", "distractor")
_UNLIKE = 0.5
"""Two final answers with less token F1 than this are different answers."""

_NUMERAL = re.compile(r"\d+")


@dataclass(frozen=True)
class SpoiltAnswer:
    """A bad answer to a row's prompt."""

    fault: str
    """One of `FAULTS`."""
    text: str


def spoilt_answers(row: RaftRow, others: Sequence[RaftRow], *, seed: int) -> list[SpoiltAnswer]:
    """The row's answer with each fault that it can show.

    Args:
        row: of target `answer` or `refuse`.
        others: rows whose final answers may stand for wrong ones; the first that fits is taken.
        seed: of what is drawn.
    """
    made = _refusal_faults if row.target == "refuse" else _answer_faults
    return [
        SpoiltAnswer(fault, text)
        for fault, text in (*made(row, others, seed), *_format_faults(row))
        if text != render_target(row)
    ]


def _answer_faults(row: RaftRow, others: Sequence[RaftRow], seed: int) -> Iterator[tuple[str, str]]:
    steps = cited_steps(row)
    other = _other_answer(row, others)
    if other is not None:
        yield "wrong_answer", render_answer(steps, other)
    if _NUMERAL.search(row.final_answer):
        changed = _NUMERAL.sub(lambda number: str(int(number[0]) + 1), row.final_answer)
        yield "wrong_number", render_answer(steps, changed)
    yield "refused", render_answer((), REFUSAL_ANSWER)
    if row.quotes:
        without = [replace(step, quote=None) for step in steps]
        yield "no_quotes", render_answer(without, row.final_answer)
        if all(len(quote.text.split()) > 1 for quote in row.quotes):
            one_word = _with_quotes(steps, lambda text: text.split()[0])
            yield "one_word_quotes", render_answer(one_word, row.final_answer)
            turned = _with_quotes(steps, lambda text: " ".join(text.split()[::-1]))
            yield "reordered_quotes", render_answer(turned, row.final_answer)
    for fault in _FROM_PREFERENCES:
        yield from _paired(row, fault, seed)


def _refusal_faults(
    row: RaftRow, others: Sequence[RaftRow], seed: int
) -> Iterator[tuple[str, str]]:
    yield from _paired(row, "unfounded", seed)
    other = _other_answer(row, others)
    if other is not None:
        yield "answered", render_answer((), other)


def _format_faults(row: RaftRow) -> Iterator[tuple[str, str]]:
    target = render_target(row)
    opening = target.rindex("<answer>")
    yield "cut", target[:opening]
    yield "cut_inside_answer", target[: (opening + len(target)) // 2]
    yield "repeated", f"{target}\n{target}"


def _paired(row: RaftRow, fault: str, seed: int) -> Iterator[tuple[str, str]]:
    config = PreferenceConfig(share=1, rejected={fault: 1})
    pair = make_pair(row, config, seed=seed, one_more=lambda _row: None)
    if pair is not None:
        yield fault, pair.rejected


def _with_quotes(steps: Sequence[ParsedStep], change: Callable[[str], str]) -> list[ParsedStep]:
    return [
        step
        if step.quote is None
        else replace(step, quote=CitedQuote(change(step.quote.text), step.quote.passage_number))
        for step in steps
    ]


def _other_answer(row: RaftRow, others: Sequence[RaftRow]) -> str | None:
    for other in others:
        if other.target == "answer" and token_f1(other.final_answer, row.final_answer) < _UNLIKE:
            return other.final_answer
    return None
