"""Which questions share a context.

One context for several questions lets training compute it once. Whether a question can join is
decided by the guards of all: a passage that another question needs stands in this question's
context too, so it must not answer it. Where that cannot be, or where the passages would not fit,
questions stay apart. What a row teaches is drawn before, so grouping changes no share.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.raft.candidates import Candidate
from pipeline_lib.raft.contexts.guard import AnswerGuard
from pipeline_lib.raft.rows import Provenance, Split, Target

_MOST_OPEN_GROUPS = 8
"""Groups of a document that a question is tried in; bounds the work for long documents."""


@dataclass(frozen=True)
class Draft:
    """A row without its context."""

    row_id: str
    candidate: Candidate
    target: Target
    guard: AnswerGuard
    provenance: Provenance

    @property
    def sources(self) -> tuple[Chunk, ...]:
        """The passages that the question was written about."""
        return self.candidate.topic.chunks

    @property
    def is_whole(self) -> bool:
        """Whether the context holds the oracle passages."""
        return self.target == "answer"

    @property
    def required(self) -> tuple[Chunk, ...]:
        """Passages of the corpus that the context must hold.

        The oracles; for an unanswerable question the passage that it was written about, so that
        the model learns to tell near from enough.
        """
        is_needed = self.is_whole or not self.candidate.is_answerable
        return self.sources if is_needed else ()

    def allows(self, chunk: Chunk) -> bool:
        """Whether a passage that another question needs may stand in this one's context."""
        if any(chunk.chunk_id == source.chunk_id for source in self.sources):
            return bool(self.required)
        return self.guard.danger(chunk.text) is None


@dataclass(frozen=True)
class ContextGroup:
    """Questions with one context; most often a single one."""

    drafts: tuple[Draft, ...]
    """By row id."""

    @property
    def key(self) -> str:
        """Whose draws decide the context."""
        return self.drafts[0].row_id

    @property
    def split(self) -> Split:
        """The one that all questions are of."""
        return self.drafts[0].candidate.topic.split

    @cached_property
    def required(self) -> dict[str, Chunk]:
        """Passages of the corpus that the context must hold, by id."""
        return {chunk.chunk_id: chunk for draft in self.drafts for chunk in draft.required}

    @cached_property
    def source_ids(self) -> frozenset[str]:
        """All passages that its questions were written about; none is a distractor by chance."""
        return frozenset(chunk.chunk_id for draft in self.drafts for chunk in draft.sources)

    @property
    def hosts(self) -> tuple[Draft, ...]:
        """The questions whose oracles are there, so that a made-up passage can stand by them."""
        is_training = self.split == "train"
        return tuple(draft for draft in self.drafts if draft.is_whole and is_training)

    def num_passages(self, num_distractors: int) -> int:
        """Passages of the context; a row without oracles has as many as one with them."""
        return num_distractors + max(len(draft.sources) for draft in self.drafts)

    def danger(self, text: str) -> str | None:
        """Why a passage may answer one of the questions, or `None`."""
        return next((reason for d in self.drafts if (reason := d.guard.danger(text))), None)

    def evidence_in(self, text: str) -> str | None:
        """As `danger`, for a text that may be nearly an oracle's: one made from it."""
        return next((reason for d in self.drafts if (reason := d.guard.evidence_in(text))), None)

    def has_room_for(self, draft: Draft, *, num_distractors: int) -> bool:
        """Whether `draft` can share the context."""
        joined = ContextGroup((*self.drafts, draft))
        fits = len(joined.required) <= joined.num_passages(num_distractors)
        return (
            fits
            and all(draft.allows(chunk) for chunk in self.required.values())
            and all(other.allows(chunk) for other in self.drafts for chunk in draft.required)
        )


def make_groups(
    drafts: Sequence[Draft], *, questions_per_context: int, num_distractors: int
) -> list[ContextGroup]:
    """Training questions about one document in groups, all others alone.

    Does not depend on the order of `drafts`, nor on drafts about other documents.
    """
    groups: list[ContextGroup] = []
    by_document: dict[str, list[Draft]] = {}
    for draft in drafts:
        documents = {chunk.document_id for chunk in draft.sources}
        is_shared = draft.candidate.topic.split == "train" and len(documents) == 1
        if is_shared and questions_per_context > 1:
            by_document.setdefault(documents.pop(), []).append(draft)
        else:
            groups.append(ContextGroup((draft,)))
    for document_id in sorted(by_document):
        groups += _groups_of(by_document[document_id], questions_per_context, num_distractors)
    return groups


def _groups_of(
    drafts: Iterable[Draft], questions_per_context: int, num_distractors: int
) -> list[ContextGroup]:
    """Each question into the first group that has room; those about one passage come together."""
    closed: list[ContextGroup] = []
    open_groups: list[ContextGroup] = []
    ordered = sorted(drafts, key=lambda d: (sorted(c.chunk_id for c in d.sources), d.row_id))
    for draft in ordered:
        for place, group in enumerate(open_groups):
            if group.has_room_for(draft, num_distractors=num_distractors):
                members = sorted((*group.drafts, draft), key=lambda member: member.row_id)
                open_groups[place] = ContextGroup(tuple(members))
                if len(members) == questions_per_context:
                    closed.append(open_groups.pop(place))
                break
        else:
            open_groups.append(ContextGroup((draft,)))
            if len(open_groups) > _MOST_OPEN_GROUPS:
                closed.append(open_groups.pop(0))
    return [*closed, *open_groups]
