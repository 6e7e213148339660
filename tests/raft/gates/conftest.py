"""Candidates made by hand, and a metered teacher that answers by a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pytest

from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.generation.base import Completion, GenerationParams, Prompt, Score
from pipeline_lib.raft.candidates import Candidate, Topic, Written, quote_of
from pipeline_lib.raft.gates.asking import Asking
from pipeline_lib.raft.prompts.library import PromptLibrary
from pipeline_lib.raft.rows import Quote, ReasoningStep
from pipeline_lib.retrieval.search import Hit
from tests.corpus.made_corpora import make_chunk

LIBRARY = "On Saturdays the library closes at noon, and it stays closed on 3 public holidays."


def chunk_of(text: str, number: int = 0) -> Chunk:
    """A chunk of a document of its own."""
    return make_chunk(f"chunk-{number}", text, f"doc-{number}")


MakeCandidate = Callable[..., Candidate]


@pytest.fixture
def make_candidate() -> MakeCandidate:
    """A good one, about the library's hours, unless told otherwise."""

    def make(
        question: str = "When does the library close on Saturdays?",
        *,
        texts: Sequence[str] = (LIBRARY,),
        first_number: int = 0,
        answer: str | None = "At noon",
        quotes: Sequence[str | Quote] = ("On Saturdays the library closes at noon",),
        reasoning: str = "The document gives the hour for Saturdays.",
        kind: str = "factual",
        style: str = "plain",
        source: Literal["teacher", "user"] = "teacher",
        known_answer: str | None = None,
        hits: Sequence[Hit] = (),
    ) -> Candidate:
        chunks = tuple(chunk_of(text, first_number + n) for n, text in enumerate(texts))
        steps = [ReasoningStep(text=reasoning)] if reasoning else []
        for quote in quotes:
            found = quote if isinstance(quote, Quote) else _quote(quote, chunks)
            steps.append(ReasoningStep(text="", quote=found))
        return Candidate(
            topic=Topic(split="train", chunks=chunks, kind=kind, style=style),
            question=question,
            known_answer=known_answer,
            hits=tuple(hits),
            written=None if answer is None else Written(tuple(steps), answer),
            source=source,
            origin="line 7" if source == "user" else "",
        )

    return make


def _quote(text: str, chunks: Sequence[Chunk]) -> Quote:
    for chunk in chunks:
        place = chunk.text.find(text)
        if place >= 0:
            return quote_of(chunk, place, place + len(text))
    return Quote(chunk_id=chunks[0].chunk_id, start=0, end=len(text), text=text)


@dataclass
class MeteredFake:
    """Answers prompts by a function, asks nothing beyond its budget, and remembers all."""

    script: Callable[[Prompt, GenerationParams], str]
    finish: Callable[[str], str] = lambda _text: "stop"
    budget: int = 10**9
    model_identity: str = "fake:1"
    asked: list[tuple[str, Prompt, GenerationParams]] = field(default_factory=list)

    @property
    def is_exhausted(self) -> bool:
        return len(self.asked) >= self.budget

    def generate(
        self, prompts: Sequence[Prompt], params: GenerationParams, *, step: str
    ) -> list[Completion]:
        return [self._complete(prompt, params, step) for prompt in prompts]

    def score(self, prompts: Sequence[Prompt], targets: Sequence[str], *, step: str) -> list[Score]:
        raise AssertionError("gates do not score")

    def _complete(self, prompt: Prompt, params: GenerationParams, step: str) -> Completion:
        if self.is_exhausted:
            return Completion("", 0, 0, "budget")
        self.asked.append((step, prompt, params))
        text = self.script(prompt, params)
        return Completion(text, 10, len(text.split()), self.finish(text))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def fake_teacher() -> type[MeteredFake]:
    """The class, to be given a script."""
    return MeteredFake


@pytest.fixture
def ask_with(prompts: PromptLibrary) -> Callable[..., Asking]:
    """What gates ask with, given a teacher."""
    titles = {f"doc-{n}": f"Page {n}" for n in range(50)}
    return lambda teacher: Asking(teacher, prompts, titles, seed=1)
