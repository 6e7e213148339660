"""Rows out of drafts and their distractors: passages in order, provenance, keys."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

from pipeline_lib.artifacts.manifest import canonical_json
from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.raft.contexts.distractors import Choice, Distractor
from pipeline_lib.raft.contexts.groups import ContextGroup, Draft
from pipeline_lib.raft.keys import make_row_key, unit_interval
from pipeline_lib.raft.rendering import REFUSAL_ANSWER
from pipeline_lib.raft.rows import Passage, RaftRow
from pipeline_lib.raft.showing import written_of
from pipeline_lib.retrieval.hits import Hit

_GROUP_LENGTH = 16
_Entry = Chunk | Distractor


class Finisher:
    """Writes rows.

    Args:
        titles: document id to title.
        order: where the oracles stand.
        seed: of the dataset.
    """

    def __init__(
        self,
        titles: Mapping[str, str],
        *,
        order: Literal["shuffled", "oracle_first", "oracle_last"],
        seed: int,
    ) -> None:
        self._titles = titles
        self._order = order
        self._seed = seed

    def rows(self, group: ContextGroup, choice: Choice) -> list[RaftRow]:
        """One row per question of a group, all with the same passages in the same order."""
        entries = self._ordered(group, choice)
        name = _group_name(entries) if len(group.drafts) > 1 else ""
        return [self._row(draft, entries, name) for draft in group.drafts]

    def distractor(self, distractor: Distractor, hits: Sequence[Hit] = ()) -> Passage:
        """A distractor as a passage of a row whose question has these hits."""
        hit = next((hit for hit in hits if hit.chunk_id == distractor.chunk_id), None)
        return Passage(
            chunk_id=distractor.chunk_id,
            document_id=distractor.document_id,
            title=self._titles[distractor.document_id],
            text=distractor.text,
            role="distractor",
            origin=distractor.origin,
            rank=hit.rank if hit else None,
            score=hit.score if hit else None,
            source_chunk_id=distractor.source_chunk_id,
            change=distractor.change,
        )

    def _ordered(self, group: ContextGroup, choice: Choice) -> list[_Entry]:
        """In the order in which the model sees them; a passage more or less moves no other."""
        entries: list[_Entry] = [*group.required.values(), *choice.distractors]
        entries.sort(key=lambda entry: unit_interval(self._seed, group.key, "at", entry.chunk_id))
        if self._order == "oracle_first":
            entries.sort(key=lambda entry: entry.chunk_id not in group.required)
        elif self._order == "oracle_last":
            entries.sort(key=lambda entry: entry.chunk_id in group.required)
        return entries

    def _row(self, draft: Draft, entries: Sequence[_Entry], group_name: str) -> RaftRow:
        candidate, provenance = draft.candidate, draft.provenance
        written = written_of(candidate)
        oracles = candidate.oracles
        context = tuple(self._passage(entry, draft) for entry in entries)
        return RaftRow(
            row_id=draft.row_id,
            row_key=make_row_key(
                draft.row_id,
                context,
                oracle_texts=[chunk.text for chunk in draft.sources],
                prompt_version=provenance.prompt_version,
                teacher_model=provenance.teacher_model,
                seed=provenance.seed,
                target=draft.target,
                known_answer=candidate.known_answer,
            ),
            split=candidate.topic.split,
            task="answer",
            kind=candidate.topic.kind,
            style=candidate.topic.style,
            question=candidate.question,
            context=context,
            oracle_chunk_ids=tuple(chunk.chunk_id for chunk in oracles),
            oracle_document_ids=tuple(chunk.document_id for chunk in oracles),
            source_document_id=draft.sources[0].document_id,
            oracle_present=draft.is_whole,
            target=draft.target,
            reasoning=written.steps if draft.is_whole else (),
            final_answer=REFUSAL_ANSWER if draft.target == "refuse" else written.final_answer,
            context_group=group_name,
            provenance=provenance,
        )

    def _passage(self, entry: _Entry, draft: Draft) -> Passage:
        hits = draft.candidate.hits
        if isinstance(entry, Distractor):
            return self.distractor(entry, hits)
        if not draft.is_whole or entry not in draft.sources:
            return self.distractor(Distractor.of(entry, _origin(entry, draft)), hits)
        hit = next((hit for hit in hits if hit.covers(entry.chunk_id)), None)
        return Passage(
            chunk_id=entry.chunk_id,
            document_id=entry.document_id,
            title=self._titles[entry.document_id],
            text=entry.text,
            role="oracle",
            origin="oracle",
            rank=hit.rank if hit else None,
            score=hit.score if hit else None,
        )


def _origin(chunk: Chunk, draft: Draft) -> Literal["retrieved", "same_document"]:
    """Of a passage that stands there for a question: its own unanswerable one, or another's."""
    is_neighbour = chunk.document_id == draft.sources[0].document_id
    return "same_document" if is_neighbour and chunk not in draft.sources else "retrieved"


def _group_name(entries: Sequence[_Entry]) -> str:
    """The same for the same passages in the same order."""
    shown = [[entry.chunk_id, entry.text] for entry in entries]
    return hashlib.sha256(canonical_json(shown)).hexdigest()[:_GROUP_LENGTH]
