"""Questions by a small teacher: many cheap candidates, and gates that keep the sensible ones.

Asked in a chat for "one question", a model of this size mostly answers with statements. So it
continues a plain text of worked examples instead, about one fact (see `raft.facts`) under its
page's title, with the question's first words fixed: those that the fact's own words suggest
("because" suggests "Why"), then general ones. The gates need no model: the candidate must be one
question, not an example's, about the fact in the fact's words, and leave something to be answered.
Whether retrieval finds the passage again is a gate of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline_lib.generation.base import GenerationParams, Prompt
from pipeline_lib.raft.facts import Fact
from pipeline_lib.raft.quotes import fold
from pipeline_lib.raft.wording import NUMBER, content_words, has_negation, overlap

QUESTION_PARAMS = GenerationParams(max_new_tokens=24, stop=("\n",))
QUESTIONS_PER_FACT = 3

MIN_QUESTION_CHARS = 15
MAX_QUESTION_CHARS = 200
NEAR_DUPLICATE = 0.8
"""Jaccard similarity of content words from which two questions count as the same."""
_MIN_SHARED_WORDS = 2
_MIN_LEFT_WORDS = 2
"""Content words of the fact that the question must leave to the answer."""


@dataclass(frozen=True)
class WorkedExample:
    """One example of the teacher's prompts, about nothing that a corpus is likely to hold."""

    title: str
    fact: str
    question: str
    answer: str
    reasoning: str


EXAMPLES = (
    WorkedExample(
        "Bridges",
        "A suspension bridge hangs its deck from cables, which allows it to span longer distances "
        "than other bridges.",
        "Why can a suspension bridge span longer distances than other bridges?",
        "hangs its deck from cables",
        "The document says that a suspension bridge can span longer distances because its deck "
        "hangs from cables.",
    ),
    WorkedExample(
        "The city library",
        "On Saturdays the library closes at noon, and it stays closed on public holidays.",
        "When does the library close on Saturdays?",
        "at noon",
        "The document says that the library closes at noon on Saturdays.",
    ),
    WorkedExample(
        "Pumps",
        "If the pump loses pressure, the valve closes and an alarm sounds.",
        "What happens if the pump loses pressure?",
        "the valve closes and an alarm sounds",
        "The document says that the valve closes and an alarm sounds if the pump loses pressure.",
    ),
    WorkedExample(
        "Glaciers",
        "A glacier is a large body of ice that moves slowly over land.",
        "What is a glacier?",
        "a large body of ice that moves slowly over land",
        "The document says that a glacier is a large body of ice that moves slowly over land.",
    ),
)

_SUGGESTED = (
    (" Why", re.compile(r"\b(?:because|since|so that|in order to|to avoid|to allow|due to|"
                        r"therefore|allows?|prevents?)\b", re.I)),
    (" When", re.compile(r"\b(?:when|whenever|if|unless|until|while|after|before|once|during)\b",
                         re.I)),
    (" How many", re.compile(rf"(?<![\w.-]){NUMBER} [a-z]{{3,}}", re.I)),
    (" How", re.compile(r"\b(?:by \w+ing|by means of|using)\b", re.I)),
    (" Where", re.compile(r"\b(?:located|situated|stored|born|found) (?:in|at|on)\b", re.I)),
)  # fmt: skip
_GENERAL = " What"
_DEFINITION = re.compile(r"(?P<subject>\S+(?: \S+){0,4}?) (?P<verb>is|are|was|were) (?:an?|the)\b")
_CONDITION = re.compile(r"(?:If|When|Whenever|Unless|While|Once|After)(?: \S+){3}")
_SINGULAR = re.compile(
    r"(?:(?:An?|The|Each|Every|Any) (?!few\b)\S*(?:[^\Ws]|ss)|[\"'\u201c\u2018*`]\S*)(?= )"
)
_PLURAL = re.compile(r"(?:(?:The|All|Some|Most|Many) )?\w+(?<!')(?<!\u2019)(?<!s)s(?= (?!\w*s\b))")
"""A plural, going by its ending and that of the word behind it ("Paris is" is none)."""
_OPENERS = re.compile(r"(?:An?|The|If|When|Whenever|Unless|While|Once|After|Each|Every|All|Some|"
                      r"Any|Most|Many)\b")  # fmt: skip
"""Capitalized for opening the sentence only, unlike a name."""
_QUESTION_WORDS = frozenset(content_words("happens kind type purpose name"))
"""May be in a question though the fact does not have them."""

_DEIXIS = re.compile(
    r"\b(?:this|these|that|the (?:above|following|given|said)) (?:passage|text|document|fact|"
    r"sentence|statement|section|paragraph|article|topic|example|code|page)\b|"
    r"\bthe (?:passage|fact|topic|text|paragraph)\b|\bwhich of the following\b|"
    r"\baccording to (?:the|this) (?:\w+ )?(?:document|article|author|section|statement)\b|"
    r"\b(?:the|as|mentioned|described|given|shown|listed|stated|defined|see) (?:above|below)\b|"
    r"\b(?:above|below)(?=\s*[?,;.)])",
    re.IGNORECASE,
)
"""Words that need the passage beside them; "above the sea" and "below 1024" do not."""
_NUMBERED = re.compile(
    r"\b(?:documents?|passages?|texts?) (?:\d|one|two)\b|"
    r"\b(?:both|the (?:first|second|two|other)) (?:documents?|passages?|texts?)\b",
    re.IGNORECASE,
)


def first_words(fact: Fact) -> tuple[str, ...]:
    """The beginnings to try for a fact, the most promising ones first."""
    suggested = [word for word, cue in _SUGGESTED if cue.search(fact.text)]
    return tuple([*_anchored(fact.text), *suggested, _GENERAL][:QUESTIONS_PER_FACT])


def _anchored(sentence: str) -> list[str]:
    """A beginning that already holds the first words of the fact, which keeps the teacher to it.

    "If the pump fails …" gives " What happens if the pump fails"; "A glacier is a …" gives " What
    is a glacier"; "The valve closes …" gives " What does the valve". None for other openings.
    """
    inner = sentence
    if _OPENERS.match(sentence) or _PLURAL.match(sentence):
        inner = sentence[0].lower() + sentence[1:]
    for pattern, question in (
        (_CONDITION, " What happens {}"),
        (_DEFINITION, " What {verb} {}"),
        (_PLURAL, " What do {}"),
        (_SINGULAR, " What does {}"),
    ):
        match = pattern.match(sentence)
        if match is not None:
            named = match.groupdict()
            end = match.end("subject") if "subject" in named else match.end()
            return [question.format(inner[:end], verb=named.get("verb"))]
    return []


def question_prompt(fact: Fact, title: str, first_word: str) -> Prompt:
    """The teacher's prompt for one candidate."""
    examples = "".join(
        f"Topic: {example.title}\nFact: {example.fact}\nQuestion: {example.question}\n\n"
        for example in EXAMPLES
    )
    return Prompt.plain(
        f"{examples}Topic: {fold(title)}\nFact: {fact.text}\nQuestion:", forced_prefix=first_word
    )


def check_wording(question: str) -> str | None:
    """Why a text is no question that stands on its own, or `None`."""
    if not question.endswith("?") or question.count("?") != 1:
        return "not_a_question"
    if not MIN_QUESTION_CHARS <= len(question) <= MAX_QUESTION_CHARS:
        return "length"
    return "points_to_the_passage" if points_to_the_passage(question) else None


def points_to_the_passage(question: str) -> bool:
    """Whether a question cannot be understood without the passage that it was written about."""
    return bool(_DEIXIS.search(question) or _NUMBERED.search(question))


def check_question(question: str, fact: Fact, title: str) -> str | None:
    """Why a candidate cannot be used, or `None`.

    Args:
        question: the candidate on one line.
        fact: what it was to ask about.
        title: of the fact's document.
    """
    problem = check_wording(question)
    if problem is not None:
        return problem
    if any(is_near_duplicate(question, example.question) for example in EXAMPLES):
        return "copied_example"
    asked, told = content_words(question), set(content_words(fact.text))
    if len(set(asked) & told) < _MIN_SHARED_WORDS:
        return "not_about_the_fact"
    if not set(asked) <= told | set(content_words(title)) | _QUESTION_WORDS:
        return "words_from_elsewhere"
    if has_negation(question) and not has_negation(fact.text):
        return "negates"
    if len(set(asked)) < len(asked):
        return "repeats_itself"
    if len(told - set(asked)) < _MIN_LEFT_WORDS:
        return "nothing_left_to_answer"
    return None


def is_near_duplicate(question: str, other: str) -> bool:
    """Whether two questions ask the same in the same words."""
    if question.casefold() == other.casefold():
        return True
    return overlap(content_words(question), content_words(other)) >= NEAR_DUPLICATE
