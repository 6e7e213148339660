"""Whether questions, answers and reasoning have the form that they must have."""

from __future__ import annotations

from pipeline_lib.config import GateConfig
from pipeline_lib.raft.candidates import Candidate, Rejection
from pipeline_lib.raft.gates.base import SingleGate, final_answer
from pipeline_lib.raft.quotes import fold
from pipeline_lib.raft.rendering import REFUSAL_ANSWER
from pipeline_lib.raft.wording import content_words, words

KEYWORD_STYLE = "keyword"
"""Questions of this style are search queries, without a question mark."""
_QUESTION_MARKS = ("?", "\uff1f", "\u061f", "\u037e", "\u203d")
"""Latin, full-width, Arabic and Greek question marks, interrobang."""
_REFUSAL = words(REFUSAL_ANSWER)
_CLOSING = "\"'\u201d\u2019\u00bb)"


class QuestionForm(SingleGate):
    """One question on one line, about something, not too long. The user's may be put as they are.

    Args:
        config: the longest question.
    """

    step = "question"

    def __init__(self, config: GateConfig) -> None:
        self._max_chars = config.max_question_chars

    def check_one(self, candidate: Candidate) -> Rejection | None:
        """See `SingleGate`."""
        reason = self._problem(candidate)
        return None if reason is None else Rejection(self.step, reason, candidate.question)

    def _problem(self, candidate: Candidate) -> str | None:
        question = candidate.question.strip()
        if not question:
            return "empty"
        if len(question) > self._max_chars:
            return "too_long"
        if candidate.source == "user":
            return None
        if "\n" in question:
            return "several_lines"
        if not content_words(question):
            return "about_nothing"
        if candidate.topic.style == KEYWORD_STYLE:
            return None
        is_question = question.rstrip(_CLOSING).endswith(_QUESTION_MARKS)
        return None if is_question else "not_a_question"


class AnswerForm(SingleGate):
    """A final answer that is none too long, and no refusal where the corpus has the answer.

    The user's answers may be as long as they are.

    Args:
        config: the longest answer.
    """

    step = "answer"

    def __init__(self, config: GateConfig) -> None:
        self._max_words = config.max_answer_words

    def check_one(self, candidate: Candidate) -> Rejection | None:
        """See `SingleGate`."""
        answer = final_answer(candidate)
        reason = self._problem(candidate, answer)
        return None if reason is None else Rejection(self.step, reason, answer)

    def _problem(self, candidate: Candidate, answer: str) -> str | None:
        if not answer.strip():
            return "no_answer"
        is_refusal = words(answer) == _REFUSAL
        if is_refusal == candidate.is_answerable:
            return "refused" if is_refusal else "answered_after_all"
        is_too_long = len(answer.split()) > self._max_words
        return "too_long" if is_too_long and candidate.known_answer is None else None


class ReasoningForm(SingleGate):
    """Reasoning that is more than its quotes, and not too long.

    A user's answer may rest on its quotes alone.

    Args:
        config: the longest reasoning.
    """

    step = "reasoning"

    def __init__(self, config: GateConfig) -> None:
        self._max_words = config.max_reasoning_words

    def check_one(self, candidate: Candidate) -> Rejection | None:
        """See `SingleGate`."""
        if candidate.written is None or not candidate.is_answerable:
            return None
        steps, quotes = candidate.written.steps, candidate.written.quotes
        said = [step.text for step in steps if step.text.strip()]
        if not said and candidate.known_answer is None:
            return Rejection(self.step, "only_quotes", fold(" ".join(q.text for q in quotes)))
        texts = [*said, *(quote.text for quote in quotes)]
        if sum(len(text.split()) for text in texts) > self._max_words:
            return Rejection(self.step, "too_long", fold(" ".join(texts)))
        return None
