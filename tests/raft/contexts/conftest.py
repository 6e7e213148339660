"""Builders of contexts over the animals' corpus, and over hand-made ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import pytest

from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.config.contexts import ContextConfig
from pipeline_lib.corpus.schema import Chunk, Corpus
from pipeline_lib.raft.candidates import Candidate, Written
from pipeline_lib.raft.contexts.assembly import ContextBuilder
from pipeline_lib.raft.prompts.library import PromptLibrary
from pipeline_lib.raft.rendering import REFUSAL_ANSWER
from pipeline_lib.raft.rows import RaftRow


class MakeBuilder(Protocol):
    def __call__(
        self, chunks: Sequence[Chunk] | None = None, *, seed: int = 42, **settings: Any
    ) -> ContextBuilder: ...


@pytest.fixture
def make_builder(animals: Corpus, prompts: PromptLibrary) -> MakeBuilder:
    """Of the animals, or of other chunks; what is no argument of the builder is configuration."""

    def make(
        chunks: Sequence[Chunk] | None = None,
        *,
        seed: int = 42,
        teacher: Any = None,
        split_of: Any = None,
        **contexts: Any,
    ) -> ContextBuilder:
        kind = {"kind": "endpoint", "model": "m"} if teacher is not None else {}
        chunks = animals.chunks if chunks is None else chunks
        builder = ContextBuilder(
            chunks,
            {c.document_id: f"Page {c.document_id.removeprefix('doc-')}" for c in chunks},
            SynthesizeConfig(seed=seed, contexts=ContextConfig(**contexts), teacher=kind),  # type: ignore[arg-type]
            teacher=teacher,
            prompts=prompts,
            prompt_version="v1",
            teacher_model="teacher-1",
        )
        if split_of is not None:
            builder.hold_out(split_of)
        return builder

    return make


@pytest.fixture
def build_one(make_builder: MakeBuilder) -> Callable[..., RaftRow]:
    """The row of one candidate about the animals."""

    def build(candidate: Candidate, **settings: Any) -> RaftRow:
        [row] = make_builder(**settings).build([candidate])
        assert isinstance(row, RaftRow)
        return row

    return build


@pytest.fixture
def unanswerable() -> Callable[[Candidate], Candidate]:
    """A candidate as a question that its passage does not answer."""

    def make(candidate: Candidate) -> Candidate:
        topic = replace(candidate.topic, kind="unanswerable", span=None)
        return replace(candidate, topic=topic, written=Written((), REFUSAL_ANSWER))

    return make
