"""Answered questions about hand-made passages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.config.contexts import ContextConfig
from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.raft.candidates import Candidate, Topic, Written, quote_of
from pipeline_lib.raft.contexts.drafting import Drafter
from pipeline_lib.raft.contexts.groups import ContextGroup, Draft
from pipeline_lib.raft.rows import ReasoningStep
from pipeline_lib.retrieval.hits import Hit


def hits_of(*chunks: Chunk) -> tuple[Hit, ...]:
    """The chunks as retrieval finds them, best first."""
    return tuple(
        Hit(
            chunk_id=chunk.chunk_id,
            document_id=chunk.document_id,
            title="T",
            source_uri="file:///x",
            text=chunk.text,
            start=0,
            end=chunk.end,
            rank=rank,
            score=1 / rank,
        )
        for rank, chunk in enumerate(chunks, start=1)
    )


def ask_about(
    *chunks: Chunk,
    answer: str,
    quotes: Sequence[str] = (),
    question: str = "What is asked?",
    kind: str = "factual",
    split: Any = "train",
    **fields: Any,
) -> Candidate:
    """An answered question about chunks; quotes are looked up in them."""
    steps = [ReasoningStep(text="Because of this.")]
    for quote in quotes:
        chunk = next(chunk for chunk in chunks if quote in chunk.text)
        start = chunk.text.index(quote)
        found = quote_of(chunk, start, start + len(quote))
        steps.append(ReasoningStep(text="It says:", quote=found))
    return Candidate(
        topic=Topic(split=split, chunks=chunks, kind=kind),
        question=question,
        written=Written(tuple(steps), answer),
        **fields,
    )


def drafts_of(*candidates: Candidate, **contexts: Any) -> list[Draft]:
    """Their drafts; all keep their oracles, unless configured otherwise."""
    config = SynthesizeConfig(contexts=ContextConfig(**{"oracle_probability": 1.0} | contexts))
    drafter = Drafter(config, "v1", "teacher-1")
    return [drafter.draft(candidate) for candidate in candidates]


def group_of(*candidates: Candidate, **contexts: Any) -> ContextGroup:
    """The group of some candidates, whether or not they may share a context."""
    drafts = drafts_of(*candidates, **contexts)
    return ContextGroup(tuple(sorted(drafts, key=lambda draft: draft.row_id)))
