"""Answers by a small teacher: a span of the quoted fact, and a sentence why.

Left to write freely, a model of this size answers in circles or makes things up (measured on the
50 first questions: "A star pattern is a sequence of stars", "The final item is the final item").
So the answer is constrained: clauses of the fact are the candidates, those that add most to the
question's own words come first, and the teacher's likelihood chooses among them. The answer is
then grounded by construction. Only the sentence of reasoning is written freely, after the answer
is known, and must keep to the words of question and fact.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from pipeline_lib.generation.base import GenerationParams, Prompt, Score
from pipeline_lib.raft.quotes import fold
from pipeline_lib.raft.wording import (
    CLOSING_MARKS,
    NUMBER,
    STOP_WORDS,
    content_words,
    has_negation,
    words,
)
from pipeline_lib.raft.writers.questions import EXAMPLES

REASONING_PARAMS = GenerationParams(max_new_tokens=44, stop=("\n",))
MAX_ANSWER_CANDIDATES = 4
MAX_ANSWER_WORDS = 24
MAX_NATS_PER_WORD = 1.6
"""An answer that the teacher itself finds less likely is dropped: of 57 answers measured with the
bundled model six cost more, and one of those was right."""
MIN_REASONING_CHARS = 25
_MIN_NEW_SHARE = 0.5
"""Of the answer's content words, those that the question does not have."""
_LENGTH_PRIOR_WORDS = 2
"""Likelihood is divided by words plus this: neither the shortest nor the longest span wins by
its length alone."""
_REASONING_START = " The document says that"

_MOST_REPEATS = 3
_DASH = re.compile(r"^[-\u2013\u2014]\s+")
_COUNT_QUESTION = re.compile(r"how (?:many|much)\b", re.IGNORECASE)
_COUNT = re.compile(rf"\b(?:{NUMBER}|one|no)\b", re.IGNORECASE)
_TOKEN = re.compile(r"\S+")
_NAME = re.compile(r"[\"'\u201c\u2018*`]\S+|[A-Z0-9]\S*|\S*\d\S*")
"""What may be an answer as a single word: a literal, a name, a number."""
_CLAUSES = """
    after and are as at because before but by can cannot for from had has have if in is may means
    must not only or should since so that to unless until used using was were when where which while
    who will with
"""
_CLAUSE_WORDS = frozenset(_CLAUSES.split())
_LEADERS = "and are be been but is nor not or so that was were where which who"
_BAD_FIRST = frozenset(_LEADERS.split())
_BAD_LAST = STOP_WORDS | _CLAUSE_WORDS
_TELLING = frozenset(
    content_words(
        "document says states explains describes defines gives names lists tells shows mentions "
        "question asks answer answers follow follows thing things fact reason happens kind type"
    )
)
"""Words of reasoning that neither question nor fact need to have."""


def answer_spans(fact: str, question: str) -> list[str]:
    """Spans of a fact that may answer a question, the most informative first.

    They begin and end at clause boundaries (punctuation and function words), add content words to
    the question's, and repeat few of them.
    """
    asked = set(content_words(question))
    ranked: list[tuple[float, int, str]] = []
    for start, end in _clause_pairs(fact, asked):
        span = _DASH.sub("", fact[start:end]).rstrip(".,;: ")
        gain = _gain(span, asked)
        if gain is not None:
            ranked.append((-gain, start, span))
    return list(dict.fromkeys(span for *_, span in sorted(ranked)))[:MAX_ANSWER_CANDIDATES]


def answer_prompt(fact: str, question: str) -> Prompt:
    """The prompt under which the candidates' likelihood is measured."""
    examples = "".join(
        f"Fact: {example.fact}\nQuestion: {example.question}\nAnswer: {example.answer}\n\n"
        for example in EXAMPLES
    )
    return Prompt.plain(f"{examples}Fact: {fact}\nQuestion: {question}\nAnswer:")


def answer_target(span: str) -> str:
    """What is scored for a candidate: the span as a whole line."""
    return f" {span}\n"


def choose_answer(spans: Sequence[str], scores: Sequence[Score]) -> tuple[str, float]:
    """The likeliest candidate and its cost in nats per word; earlier ones win ties."""
    costs = [
        score.sum_nll / (len(span.split()) + _LENGTH_PRIOR_WORDS)
        for span, score in zip(spans, scores, strict=True)
    ]
    best = min(range(len(spans)), key=costs.__getitem__)
    return spans[best], costs[best]


def reasoning_prompt(document: str, question: str, answer: str) -> Prompt:
    """The prompt for the sentence that leads from the quote to the (known) answer."""
    examples = "".join(
        f"Document: {example.fact}\nQuestion: {example.question}\nAnswer: {example.answer}\n"
        f"Reasoning: {example.reasoning}\n\n"
        for example in EXAMPLES
    )
    return Prompt.plain(
        f"{examples}Document: {document}\nQuestion: {question}\nAnswer: {fold(answer)}\nReasoning:",
        forced_prefix=_REASONING_START,
    )


def check_answer(answer: str, question: str, source: str) -> str | None:
    """Why a final answer cannot be used, or `None`.

    Args:
        answer: the final answer.
        question: its question.
        source: the text that it must rest on.
    """
    said = content_words(answer)
    if not said or len(answer.split()) > MAX_ANSWER_WORDS * 2:
        return "answer_length"
    if set(said) <= set(content_words(question)):
        return "answer_repeats_question"
    if not set(said) <= set(content_words(source)):
        return "answer_not_grounded"
    if _COUNT_QUESTION.match(question) and not _COUNT.search(answer):
        return "answer_has_no_number"
    return None


def check_reasoning(reasoning: str, question: str, answer: str, source: str) -> str | None:
    """Why a sentence of reasoning cannot be used, or `None`."""
    if len(reasoning) < MIN_REASONING_CHARS or not reasoning.endswith((".", '."', ".)")):
        return "reasoning_incomplete"
    said = [word for word in content_words(reasoning) if word not in _TELLING]
    asked, answered = set(content_words(question)), set(content_words(answer))
    if not set(said) & (answered - asked or answered):
        return "reasoning_misses_answer"
    if not set(said) <= asked | answered | set(content_words(source)):
        return "reasoning_not_grounded"
    if max(Counter(said).values()) > _MOST_REPEATS:
        return "reasoning_in_circles"
    if has_negation(reasoning) and not has_negation(f"{source} {question}"):
        return "reasoning_negates"
    return None


def _clause_pairs(fact: str, asked: set[str]) -> list[tuple[int, int]]:
    """Start and end of every span between two boundaries, at most `MAX_ANSWER_WORDS` words.

    Boundaries are punctuation, function words, and the ends of what the question already says.
    """
    tokens = [(match.start(), match.end()) for match in _TOKEN.finditer(fact)]
    cuts = {0, len(tokens)}
    for number, (start, end) in enumerate(tokens):
        token = fact[start:end]
        if token.strip("\"'“”(").casefold() in _CLAUSE_WORDS:
            cuts |= {number, number + 1}
        if token.rstrip(CLOSING_MARKS)[-1:] in tuple(",;:—)"):
            cuts.add(number + 1)
        if token.startswith("("):
            cuts.add(number)
        if any(word in asked for word in content_words(token)):
            cuts.add(number + 1)
    ordered = sorted(cuts)
    return [
        (tokens[left][0], tokens[right - 1][1])
        for place, left in enumerate(ordered)
        for right in ordered[place + 1 :]
        if right - left <= MAX_ANSWER_WORDS
    ]


def _gain(span: str, asked: set[str]) -> float | None:
    """How much a span adds to a question, in content words; `None` for one that is no answer."""
    tokens = words(span)
    said = content_words(span)
    new = [word for word in said if word not in asked]
    if not new or len(new) < _MIN_NEW_SHARE * len(said):
        return None
    if len(tokens) == 1 and not _NAME.fullmatch(span):
        return None
    if tokens[0] in _BAD_FIRST or tokens[-1] in _BAD_LAST:
        return None
    if span.count('"') % 2 or span.count("(") != span.count(")"):
        return None
    return len(new) - 1.5 * (len(said) - len(new))
