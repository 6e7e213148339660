"""The text of a candidate that gates look at, before and after it is answered."""

from __future__ import annotations

from typing import Literal

from pipeline_lib.raft.candidates import Candidate

Part = Literal["question", "answer"]


def step_of(part: Part, name: str) -> str:
    """The funnel's step of a gate that looks at a part.

    What is wrong with a question is counted under the gate's name, what is wrong with an answer
    under `answer`: a step is passed once.
    """
    return name if part == "question" else "answer"


def text_of(candidate: Candidate, part: Part, *, with_quotes: bool = True) -> str:
    """The question; or reasoning and final answer, with the quotes or without."""
    if part == "question":
        return candidate.question
    if candidate.written is None:
        return ""
    texts = []
    for step in candidate.written.steps:
        texts.append(step.text)
        if step.quote is not None and with_quotes:
            texts.append(step.quote.text)
    texts.append(candidate.written.final_answer)
    return "\n".join(text for text in texts if text)
