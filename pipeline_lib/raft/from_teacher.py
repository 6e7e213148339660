"""Rows that a teacher invents: ask, check, search, answer, assemble, until enough are kept."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Protocol

from pipeline_lib.config import RetrievalConfig, SynthesizeConfig
from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.progress import Progress
from pipeline_lib.raft.assembly import RowAssembler
from pipeline_lib.raft.drafts import Asked, Draft, Failure, Writer, Written
from pipeline_lib.raft.facts import Fact
from pipeline_lib.raft.funnel import Funnel, Reject
from pipeline_lib.raft.questions import AskedBefore
from pipeline_lib.raft.quotes import fold
from pipeline_lib.raft.rows import SPLITS, RaftRow, Split
from pipeline_lib.raft.splitting import split_documents, wanted_rows
from pipeline_lib.retrieval.search import Hit

TEACHER_STEPS = ("question", "new", "round_trip", "answer", "reasoning", "context", "wanted")
"""The funnel: a proper question, not asked before, whose passage retrieval finds again, with a
grounded answer and a verified reasoning, with enough distractors, and still wanted."""

_SPARE_HITS = 8
"""Retrieved beyond what is needed, for the guards to leave out."""


class PassageSearcher(Protocol):
    """What synthesis needs of `pipeline_lib.retrieval.search.Searcher`."""

    def search(
        self, queries: Sequence[str], *, limit: int, config: RetrievalConfig
    ) -> list[list[Hit]]:
        """The best passages for each query, best first."""


class TeacherRows:
    """The search for rows.

    Each split draws facts from its own documents, in an order set by the seed: one fact of every
    passage before any passage's second. Splits are filled together, in rounds, so that batches are
    large; a round asks about as many facts as the rows still missing should take.

    Args:
        writer: makes the teacher ask and answer.
        assembler: gives drafts their contexts.
        searcher: finds passages.
        config: how many, and which bounds.
        funnel: counts.
        progress: one phase is running; rows are reported as they are kept.
    """

    def __init__(
        self,
        writer: Writer,
        assembler: RowAssembler,
        searcher: PassageSearcher,
        config: SynthesizeConfig,
        funnel: Funnel,
        progress: Progress,
    ) -> None:
        self._writer = writer
        self._assembler = assembler
        self._searcher = searcher
        self._config = config
        self._funnel = funnel
        self._progress = progress
        self._asked_before = AskedBefore()
        self._reasonings: set[str] = set()
        self._rows: dict[Split, list[RaftRow]] = {split: [] for split in SPLITS}

    def make(self, chunks: Sequence[Chunk]) -> list[RaftRow]:
        """Rows from a corpus, at most `config.num_questions`.

        Raises:
            InputError: fewer than three documents can be asked about.
        """
        facts = {chunk.chunk_id: self._writer.facts(chunk) for chunk in chunks}
        usable = [chunk for chunk in chunks if facts[chunk.chunk_id]]
        shares = {
            "validation_fraction": self._config.validation_fraction,
            "test_fraction": self._config.test_fraction,
        }
        split_of = split_documents(
            (chunk.document_id for chunk in usable), seed=self._config.seed, **shares
        )
        wanted = wanted_rows(self._config.num_questions, **shares)
        queues = {
            split: self._queue(
                split, [c for c in usable if split_of[c.document_id] == split], facts
            )
            for split in SPLITS
        }
        budgets = {
            split: wanted[split] * self._config.max_candidates_per_question for split in SPLITS
        }
        while drawn := self._draw(queues, wanted, budgets):
            self._round(drawn, split_of, wanted)
        return [row for split in SPLITS for row in self._rows[split]]

    def _queue(
        self, split: Split, chunks: Sequence[Chunk], facts: Mapping[str, Sequence[Fact]]
    ) -> deque[Fact]:
        rng = random.Random(f"{self._config.seed}:{split}")  # noqa: S311 (seeded on purpose)
        ordered = sorted(chunks, key=lambda chunk: chunk.chunk_id)
        rng.shuffle(ordered)
        shuffled = [rng.sample(facts[c.chunk_id], len(facts[c.chunk_id])) for c in ordered]
        passes = zip_longest(*shuffled)
        return deque(fact for one_of_each in passes for fact in one_of_each if fact is not None)

    def _draw(
        self,
        queues: Mapping[Split, deque[Fact]],
        wanted: Mapping[Split, int],
        budgets: dict[Split, int],
    ) -> list[Fact]:
        """The next round's facts, as far as queues and budgets of candidates reach."""
        drawn: list[Fact] = []
        for split in SPLITS:
            missing = wanted[split] - len(self._rows[split])
            for _ in range(math.ceil(missing * self._writer.facts_per_row)):
                if not queues[split]:
                    break
                cost = self._writer.num_candidates(queues[split][0])
                if cost > budgets[split]:
                    break
                budgets[split] -= cost
                drawn.append(queues[split].popleft())
        return drawn

    def _round(
        self, facts: Sequence[Fact], split_of: Mapping[str, Split], wanted: Mapping[Split, int]
    ) -> None:
        asked = [item for item in self._writer.ask(facts) if self._is_new_question(item)]
        found = self._round_trip(asked)
        written = self._writer.answer([item for item, _ in found])
        for (item, hits), result in zip(found, written, strict=True):
            split = split_of[item.fact.chunk.document_id]
            row = self._row(
                item, hits, result, split, is_wanted=len(self._rows[split]) < wanted[split]
            )
            if row is not None:
                self._rows[split].append(row)
                self._progress.advance()

    def _is_new_question(self, item: Asked) -> bool:
        if item.problem is not None:
            return self._drop(item, "question", item.problem)
        self._funnel.keep("question")
        same = self._asked_before.find(item.question)
        if same is not None:
            return self._drop(item, "new", "asked_before", same)
        self._asked_before.add(item.question)
        self._funnel.keep("new")
        return True

    def _round_trip(self, asked: Sequence[Asked]) -> list[tuple[Asked, tuple[Hit, ...]]]:
        """The questions that retrieval answers with their passage, and all it found."""
        if not asked:
            return []
        self._progress.note(f"searching: {len(asked)} questions")
        top_k = self._config.round_trip_top_k
        ranked = self._searcher.search(
            [item.question for item in asked],
            limit=max(top_k, search_depth(self._config)),
            config=self._config.retrieval,
        )
        kept = []
        for item, hits in zip(asked, ranked, strict=True):
            if any(hit.covers(item.fact.chunk.chunk_id) for hit in hits[:top_k]):
                kept.append((item, tuple(hits)))
                self._funnel.keep("round_trip")
            else:
                self._drop(item, "round_trip", f"not_in_top_{top_k}")
        return kept

    def _row(
        self,
        item: Asked,
        hits: tuple[Hit, ...],
        result: Written | Failure,
        split: Split,
        *,
        is_wanted: bool,
    ) -> RaftRow | None:
        if isinstance(result, Failure):
            if result.stage == "reasoning":
                self._funnel.keep("answer")
            self._drop(item, result.stage, result.reason, result.text)
            return None
        self._funnel.keep("answer")
        reasoning = fold(" ".join(step.text for step in result.steps)).casefold()
        if reasoning in self._reasonings:
            self._drop(item, "reasoning", "same_as_another_row", reasoning)
            return None
        self._funnel.keep("reasoning")
        row = self._assembler.assemble(
            Draft(
                split=split,
                question=item.question,
                oracle=item.fact.chunk,
                written=result,
                hits=hits,
                source="teacher",
            )
        )
        if isinstance(row, Failure):
            self._drop(item, row.stage, row.reason, row.text)
            return None
        self._funnel.keep("context")
        if not is_wanted:
            self._drop(item, "wanted", "more_than_wanted", result.final_answer)
            return None
        self._funnel.keep("wanted")
        self._reasonings.add(reasoning)
        return row

    def _drop(self, item: Asked, stage: str, reason: str, text: str = "") -> bool:
        """Record a reject; always false."""
        self._funnel.drop(
            Reject(
                question=item.question,
                chunk_id=item.fact.chunk.chunk_id,
                stage=stage,
                reason=reason,
                text=text,
            )
        )
        return False


def search_depth(config: SynthesizeConfig) -> int:
    """How many passages to retrieve so that enough distractors survive the guards."""
    return config.num_distractors + 1 + _SPARE_HITS
