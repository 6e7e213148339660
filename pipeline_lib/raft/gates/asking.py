"""Asking the teacher once more about a candidate, and reading what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline_lib.generation.base import Completion, GenerationParams, MeteredGenerator, Prompt
from pipeline_lib.raft.candidates import Candidate, Rejection
from pipeline_lib.raft.prompts.library import PromptLibrary
from pipeline_lib.raft.quotes import fold
from pipeline_lib.raft.rendering import parse_answer, render_document
from pipeline_lib.raft.showing import ShownPassage, shown_question

ANSWER_TOKENS = 160
BUDGET_SPENT = "budget_spent"
"""Reason of what was never asked for."""

_UNUSABLE = {"length": "truncated", "filter": "filtered", "budget": BUDGET_SPENT}


@dataclass(frozen=True)
class Asking:
    """Who is asked, and with what."""

    teacher: MeteredGenerator
    prompts: PromptLibrary
    titles: Mapping[str, str]
    """Document id to title."""
    seed: int

    def documents(self, candidate: Candidate) -> str:
        """The oracle passages as the model sees documents, numbered from 1."""
        return "\n".join(
            render_document(number, ShownPassage(chunk, self.titles.get(chunk.document_id, "")))
            for number, chunk in enumerate(candidate.oracles, start=1)
        )

    def answers_again(
        self,
        candidates: Sequence[Candidate],
        *,
        step: str,
        temperature: float = 0.0,
        sample: int = 0,
    ) -> list[str | Rejection | None]:
        """What the teacher answers from the oracles alone; see `read_final_answer`."""
        prompts = [
            self.prompt(
                "agree", documents=self.documents(candidate), question=shown_question(candidate)
            )
            for candidate in candidates
        ]
        params = GenerationParams(
            max_new_tokens=ANSWER_TOKENS, temperature=temperature, seed=self.seed + sample
        )
        completions = self.teacher.generate(prompts, params, step=step)
        return [read_final_answer(completion, step) for completion in completions]

    def prompt(self, template: str, **values: str) -> Prompt:
        """A template as a prompt; values must be escaped."""
        return Prompt.chat(self.prompts.messages(template, **values))


def read_final_answer(completion: Completion, step: str) -> str | Rejection | None:
    """The final answer of a completion, `None` for a refusal, or why it cannot be used.

    An output without the answer's marker is taken as the answer.
    """
    problem = _UNUSABLE.get(completion.finish_reason)
    if problem is not None:
        return Rejection(step, problem, completion.text)
    parsed = parse_answer(completion.text, ())
    if parsed.is_refusal:
        return None
    return parsed.final_answer or fold(parsed.reasoning_text)
