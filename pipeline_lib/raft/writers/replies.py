"""Reading what a chat teacher replies: questions in any list, answers in the trained format.

Replies are read, never repaired. A list of questions may come as the JSON that was asked for, with
prose or a fence around it, cut off in the middle, or as lines with numbers, bullets and a preamble;
an answer is parsed by the one parser that serving uses, and each of its quotes must be verbatim in
the passage that it cites.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline_lib.generation.base import Completion
from pipeline_lib.generation.structured import parse_json
from pipeline_lib.raft.candidates import Rejection, Written, quote_of
from pipeline_lib.raft.markup import unescape
from pipeline_lib.raft.quotes import fold, verify_quote
from pipeline_lib.raft.rendering import REFUSAL_ANSWER, ParsedAnswer, parse_answer
from pipeline_lib.raft.rows import Quote, ReasoningStep
from pipeline_lib.raft.showing import ShownPassage
from pipeline_lib.raft.writers.questions import points_to_the_passage

_MARK = r"(?:[-*•+](?=\s)|\(?\d{1,2}[.):](?!\d)|Q\d{0,2}[.):]|Question(?: \d{1,2})?\s?[.):])"
_LIST_MARKS = re.compile(rf"^\s*(?:\*\*)?(?:{_MARK}(?:\*\*)?\s*)+", re.IGNORECASE)
_NEXT_ITEM = re.compile(rf"(?<=\?)([\"*]*)\s+(?={_MARK})", re.IGNORECASE)
"""Between two items of a list that were written on one line."""
_PAIRS = (
    ("**", "**"),
    ("*", "*"),
    ("_", "_"),
    ("`", "`"),
    ('"', '"'),
    ("'", "'"),
    ("\u201c", "\u201d"),
)
_BEHIND_A_QUESTION = re.compile(r"(?<=[?\uff1f\u061f])[*_`\s]+$")
_QUESTION_MARKS = ("?", "\uff1f", "\u061f")
"""Also those of Chinese and Japanese, and of Arabic."""
_PREAMBLE = re.compile(r"(?:sure|certainly|of course|okay|ok|here (?:are|is))\b", re.IGNORECASE)
_ANSWER_END = re.compile(r"</answer\b[^<>]*>", re.IGNORECASE)
_DEEPEST_LIST = 4


def withheld(completion: Completion, step: str) -> Rejection | None:
    """Why there is no reply to read, or `None`.

    Args:
        completion: of the teacher.
        step: of the funnel that it was asked for.
    """
    if completion.finish_reason == "budget":
        return Rejection("budget", "budget_spent")
    if completion.finish_reason == "filter":
        return Rejection(step, "filtered", completion.text)
    return None


def read_questions(completion: Completion, *, num_wanted: int) -> list[str]:
    """The questions of a reply, unescaped, each on one line; the first `num_wanted` of them.

    Nothing says yet that they are questions: a reply that has none comes back as its lines. A reply
    that was cut off loses the item that it was cut off in.
    """
    listed = [text for item in _texts(parse_json(completion.text)) if (text := _clean(item))]
    lines = _lines(completion.text, is_cut=completion.finish_reason == "length")
    is_list = bool(listed) and (_has_question(listed) or not _has_question(lines))
    return (listed if is_list else lines)[:num_wanted]


def check_question(question: str) -> str | None:
    """Why a question of a reply cannot be used, or `None`; its form is the gates' matter."""
    if sum(question.count(mark) for mark in _QUESTION_MARKS) > 1:
        return "several_questions"
    return "points_to_the_passage" if points_to_the_passage(question) else None


def read_answer(
    completion: Completion, shown: Sequence[ShownPassage], *, is_answerable: bool
) -> Written | Rejection:
    """The answer of a reply, with its quotes found in the passages.

    Args:
        completion: of the teacher.
        shown: the passages that the question is to be answered from, in the prompt's order, from
            its first document on; each must be quoted.
        is_answerable: whether they answer it. If not, only a refusal is right.
    """
    why = withheld(completion, "answer")
    if why is not None:
        return why
    text = completion.text
    if completion.finish_reason == "length":
        return Rejection("answer", "truncated", text)
    parsed = parse_answer(_until_answer(text), shown)
    if parsed.final_answer is None:
        return Rejection("answer", "no_answer_marked", text)
    if parsed.is_refusal:
        return Rejection("answer", "refused", text) if is_answerable else refusal()
    if not is_answerable:
        return Rejection("answer", "answerable_after_all", parsed.final_answer)
    steps = _verified(parsed, shown)
    if isinstance(steps, Rejection):
        return steps
    quoted = {step.quote.chunk_id for step in steps if step.quote is not None}
    if len(shown) > 1 and quoted < {passage.chunk_id for passage in shown}:
        return Rejection("quotes", "one_passage_only", text)
    if not any(step.text for step in steps):
        return Rejection("reasoning", "only_quotes" if steps else "no_reasoning", text)
    return Written(tuple(steps), parsed.final_answer)


def refusal() -> Written:
    """The right answer to a question that the corpus does not answer."""
    return Written((), REFUSAL_ANSWER)


def _verified(
    parsed: ParsedAnswer, shown: Sequence[ShownPassage]
) -> list[ReasoningStep] | Rejection:
    """The steps with their quotes' places, or what is wrong with the first bad quote."""
    passages = {passage.chunk_id: passage for passage in shown}
    steps = []
    for step in parsed.steps:
        quote: Quote | None = None
        if step.quote is not None:
            check = verify_quote(step.quote.text, step.quote.passage_number, shown)
            if (
                check.status != "verbatim"
                or check.chunk_id is None
                or check.start is None
                or check.end is None
            ):
                return Rejection("quotes", check.status, step.quote.text)
            quote = quote_of(passages[check.chunk_id], check.start, check.end)
        steps.append(ReasoningStep(text=fold(step.text), quote=quote))
    return steps


def _until_answer(text: str) -> str:
    """A reply up to the end of its last answer: courtesies behind it are no reasoning."""
    ends = [match.end() for match in _ANSWER_END.finditer(text)]
    return text[: ends[-1]] if ends else text


def _texts(value: Any, depth: int = 0) -> Iterator[str]:
    """The texts of `["…"]`, `[{"question": "…"}]`, `{"questions": […]}` and the like."""
    if depth > _DEEPEST_LIST:
        return
    if isinstance(value, str) and depth:
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            is_named = str(key).lower().startswith("question")
            if is_named or (isinstance(item, str) and item.endswith(_QUESTION_MARKS)):
                yield from _texts(item, depth + 1)


def _lines(text: str, *, is_cut: bool) -> list[str]:
    """The lines that look like questions, or all but preambles where none does."""
    lines = _NEXT_ITEM.sub(r"\1\n", text).splitlines()
    if is_cut:
        lines = lines[:-1]
    cleaned = [line for raw in lines if (line := _clean(raw.rstrip(" ,")))]
    if _has_question(cleaned):
        return [line for line in cleaned if line.endswith(_QUESTION_MARKS)]
    return [line for line in cleaned if not line.endswith(":") and not _PREAMBLE.match(line)]


def _has_question(texts: Sequence[str]) -> bool:
    return any(text.endswith(_QUESTION_MARKS) for text in texts)


def _clean(line: str) -> str:
    """A line without list marks, wrapping quotation marks and emphasis; empty without a word."""
    bare = _LIST_MARKS.sub("", line.strip())
    for left, right in _PAIRS:
        if len(bare) > len(left + right) and bare.startswith(left) and bare.endswith(right):
            bare = bare[len(left) : -len(right)].strip()
    bare = _BEHIND_A_QUESTION.sub("", bare)
    return fold(unescape(bare)) if any(char.isalnum() for char in bare) else ""
