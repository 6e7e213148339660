"""Whether a question needs its document at all."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline_lib.generation.base import GenerationParams
from pipeline_lib.raft.candidates import Candidate, Rejection
from pipeline_lib.raft.gates.asking import (
    ANSWER_TOKENS,
    BUDGET_SPENT,
    Asking,
    read_final_answer,
)
from pipeline_lib.raft.gates.base import AskingGate, final_answer, is_answered
from pipeline_lib.raft.matching import contradict, token_f1
from pipeline_lib.raft.showing import shown_question
from pipeline_lib.raft.wording import content_words

_RIGHT = 0.6
"""Token F1 from which an answer without document is the right one in other words."""
_MAX_ASIDE = 12
"""Content words that a guess may have beside the answer: a long one says many things by chance."""


class NeedsDocument(AskingGate):
    """The teacher does not know the answer by heart.

    Args:
        asking: the teacher.
    """

    step = "closed_book"

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    def concerns(self, candidate: Candidate) -> bool:
        """See `AskingGate`."""
        return is_answered(candidate)

    def check_together(self, candidates: Sequence[Candidate]) -> list[Rejection | None]:
        """See `AskingGate`."""
        prompts = [
            self._asking.prompt("closed-book", question=shown_question(candidate))
            for candidate in candidates
        ]
        params = GenerationParams(max_new_tokens=ANSWER_TOKENS, seed=self._asking.seed)
        completions = self._asking.teacher.generate(prompts, params, step=self.step)
        return [
            self._judge(candidate, read_final_answer(completion, self.step))
            for candidate, completion in zip(candidates, completions, strict=True)
        ]

    def _judge(self, candidate: Candidate, guess: str | Rejection | None) -> Rejection | None:
        if isinstance(guess, Rejection):
            # Words that ran on, or were filtered, show no knowledge; an empty purse shows nothing.
            return guess if guess.reason == BUDGET_SPENT else None
        if guess is None or not is_right(guess, final_answer(candidate), candidate.question):
            return None
        return Rejection(self.step, "answered_without_document", guess)


def is_right(guess: str, answer: str, question: str) -> bool:
    """Whether a guess says the answer: in nearly its words, or with all it adds to the question."""
    if contradict(guess, answer):
        return False
    if token_f1(guess, answer) >= _RIGHT:
        return True
    new = set(content_words(answer)) - set(content_words(question))
    said = set(content_words(guess))
    return bool(new) and new <= said and len(said) <= len(new) + _MAX_ASIDE
