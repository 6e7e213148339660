"""What a row teaches, drawn before its context is."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.raft.candidates import Candidate, Topic, Written
from pipeline_lib.raft.contexts.groups import Draft
from pipeline_lib.raft.contexts.guard import AnswerGuard
from pipeline_lib.raft.keys import make_row_id, unit_interval
from pipeline_lib.raft.rows import Provenance, RaftRow, ReasoningStep, Target
from pipeline_lib.raft.showing import written_of
from pipeline_lib.retrieval.hits import Hit


@dataclass(frozen=True, kw_only=True)
class Remapped:
    """A held-out row whose passages were cut anew."""

    row: RaftRow
    """As it was."""
    chunks: tuple[Chunk, ...]
    """The oracles as they are now; for an unanswerable question what it was written about."""
    reasoning: tuple[ReasoningStep, ...]
    """With its quotes at their new places."""
    hits: tuple[Hit, ...] = ()
    """What retrieval finds for the question now; without them distractors are random."""


class Drafter:
    """Makes drafts of candidates.

    Args:
        config: probabilities, thresholds and the seed.
        prompt_version: for provenance.
        teacher_model: for provenance.
    """

    def __init__(self, config: SynthesizeConfig, prompt_version: str, teacher_model: str) -> None:
        self._config = config.contexts
        self._seed = config.seed
        self._prompt_version = prompt_version
        self._teacher_model = teacher_model

    def draft(self, candidate: Candidate) -> Draft:
        """An answered candidate, with what its row is to teach."""
        sources = [chunk.chunk_id for chunk in candidate.topic.chunks]
        row_id = make_row_id(candidate.question, sources)
        return Draft(
            row_id=row_id,
            candidate=candidate,
            target=self._target(row_id, candidate),
            guard=self._guard(candidate),
            provenance=Provenance(
                question_source=candidate.source,
                answer_source="teacher" if candidate.known_answer is None else candidate.source,
                teacher_model=self._teacher_model,
                prompt_version=self._prompt_version,
                seed=self._seed,
            ),
        )

    def redraft(self, remapped: Remapped) -> Draft:
        """A row of another dataset: name, target and provenance are what they were.

        Raises:
            ValueError: it is a training row, whose target depends on its context.
        """
        row = remapped.row
        if row.split == "train":
            raise ValueError(f"row {row.row_id} is a training row; those are made again")
        candidate = Candidate(
            topic=Topic(split=row.split, chunks=remapped.chunks, kind=row.kind, style=row.style),
            question=row.question,
            hits=remapped.hits,
            written=Written(remapped.reasoning, row.final_answer),
        )
        return Draft(
            row_id=row.row_id,
            candidate=candidate,
            target=row.target,
            guard=self._guard(candidate),
            provenance=row.provenance,
        )

    def _target(self, row_id: str, candidate: Candidate) -> Target:
        if not candidate.is_answerable:
            return "refuse"
        is_held_out = candidate.topic.split != "train"
        drawn = unit_interval(self._seed, row_id, "oracle")
        if is_held_out or drawn < self._config.oracle_probability:
            return "answer"
        is_refused = unit_interval(self._seed, row_id, "refuse") < self._config.refuse_share
        return "refuse" if is_refused else "memorise"

    def _guard(self, candidate: Candidate) -> AnswerGuard:
        written = written_of(candidate)
        return AnswerGuard(
            [chunk.text for chunk in candidate.topic.chunks],
            written.final_answer if candidate.is_answerable else "",
            [quote.text for quote in written.quotes],
            near_duplicate_threshold=self._config.near_duplicate_threshold,
        )
