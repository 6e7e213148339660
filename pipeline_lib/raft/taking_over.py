"""What of the dataset before goes into this one, and what is left to ask about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from pipeline_lib.corpus.schema import Corpus
from pipeline_lib.raft.candidates import Rejection, Topic
from pipeline_lib.raft.contexts.drafting import Remapped
from pipeline_lib.raft.dataset.evaluation_set import KeptQuestions, keep_questions
from pipeline_lib.raft.dataset.previous import CarriedRows, PreviousDataset
from pipeline_lib.raft.dataset.splitting import SplitPlan
from pipeline_lib.raft.dataset.standing import asked_about
from pipeline_lib.raft.gates.duplicates import AskedBefore, SaidBefore
from pipeline_lib.raft.output import AskedTopics
from pipeline_lib.raft.quotes import fold
from pipeline_lib.raft.rows import SPLITS, RaftRow, Split
from pipeline_lib.raft.synthesis import Synthesis, search_depth
from pipeline_lib.raft.writers.topics import TopicPlanner

LEARNT: tuple[Split, ...] = ("train", "validation")
_REDRAW_BATCH = 256


class TakingOver:
    """Takes rows over from one dataset into another.

    Args:
        previous: the dataset before.
        corpus: the new one.
        plan: where its documents belong.
        recipe: of the new dataset.
        parts: the new dataset's.
        asked: questions so far; those of rows taken over are added.
        said: reasoning so far; likewise.
    """

    def __init__(
        self,
        previous: PreviousDataset,
        corpus: Corpus,
        plan: SplitPlan,
        recipe: str,
        parts: Synthesis,
        asked: AskedBefore,
        said: SaidBefore,
    ) -> None:
        self._previous = previous
        self._corpus = corpus
        self._plan = plan
        self._recipe = recipe
        self._parts = parts
        self._asked = asked
        self._said = said
        self._carried: CarriedRows | None = None
        self._texts = {chunk.chunk_id: chunk.text for chunk in corpus.chunks}
        self.num_rows = 0
        """Rows taken over."""
        self.retired: Counter[str] = Counter()
        """Rows that were not, by reason."""

    def keep_test_questions(self) -> KeptQuestions:
        """Take the test questions over, with new contexts where they need them."""
        kept = keep_questions(
            self._previous,
            self._corpus,
            self._plan.split_of,
            redraw_all=not self._previous.draws_contexts_as(self._parts.config),
        )
        for row in kept.unchanged:
            self._take(row)
        for start in range(0, len(kept.remapped), _REDRAW_BATCH):
            for row in self._redrawn(kept.remapped[start : start + _REDRAW_BATCH]):
                self._take(row)
        return kept

    def carry_over(self, wanted: Mapping[Split, int], splits: tuple[Split, ...]) -> None:
        """Take the rows of some splits over that still hold, no more than are wanted."""
        carried = self._carry(splits)
        for split in splits:
            for row in islice(carried.rows(split), wanted[split]):
                self._take(row)

    def rows_by_id(self) -> dict[str, RaftRow]:
        """All rows that still hold, by id, and nothing taken yet.

        Without those that a reviewer rejected: they are made again, to be counted as rejected.
        """
        carried = self._carry(SPLITS)
        return {
            row.row_id: row
            for split in SPLITS
            for row in carried.rows(split)
            if not isinstance(self._parts.verdicts.apply(row), Rejection)
        }

    def open_topics(self, planner: TopicPlanner) -> dict[Split, Iterator[Topic]]:
        """What was not asked about yet, by split: changed documents first.

        To be called once rows were carried over. Where none were, all is open.
        """
        carried = self._carried
        if carried is None or not carried.num_rows:
            return {split: planner.queue(split) for split in SPLITS}
        again = self._asked_again(carried)
        withdrawn = self._parts.verdicts.withdrawn_documents
        standing = {
            chunk.chunk_id
            for chunk in self._corpus.chunks
            if chunk.chunk_id not in again and chunk.document_id not in withdrawn
        }
        done = AskedTopics.read(self._previous.directory).about(standing)
        self._parts.rows.topics.update(done)

        def queue(split: Split) -> Iterator[Topic]:
            for is_changed in (True, False):
                for topic in planner.queue(split):
                    is_turn = _is_about(topic, carried.changed_documents) == is_changed
                    if is_turn and topic not in done:
                        yield topic

        return {split: queue(split) for split in SPLITS}

    def _carry(self, splits: tuple[Split, ...]) -> CarriedRows:
        self._carried = self._previous.carry_over(
            self._corpus, self._plan.split_of, self._recipe, splits=splits
        )
        self.retired += self._carried.retired
        return self._carried

    def _asked_again(self, carried: CarriedRows) -> set[str]:
        """The passages whose rows were retired although the passages stand."""
        return {
            chunk_id
            for split in SPLITS
            for row in self._previous.rows(split)
            if row.row_id in carried.remake
            for chunk_id in asked_about(row)
        }

    def _redrawn(self, remapped: Sequence[Remapped]) -> Iterator[RaftRow]:
        config = self._parts.config
        found = self._parts.searcher.search(
            [item.row.question for item in remapped],
            limit=search_depth(config),
            config=config.retrieval,
        )
        items = [
            replace(item, hits=tuple(hits)) for item, hits in zip(remapped, found, strict=True)
        ]
        for built in self._parts.contexts.redraw(items):
            if isinstance(built, Rejection):
                self.retired[built.reason] += 1
            else:
                yield built

    def _take(self, row: RaftRow) -> None:
        """A row of the dataset before, if reviewers and the evaluation set let it in."""
        result = self._parts.verdicts.apply(row)
        if isinstance(result, RaftRow) and row.split == "train":
            oracles = [self._texts[chunk_id] for chunk_id in row.oracle_chunk_ids]
            result = self._parts.decontaminator.check(row.question, oracles) or result
        if isinstance(result, Rejection):
            self.retired[result.reason] += 1
            return
        self._asked.extend([row.question])
        self._said.add(fold(" ".join(step.text for step in row.reasoning)))
        self._parts.keep(result)
        self.num_rows += 1


def _is_about(topic: Topic, documents: Collection[str]) -> bool:
    return any(chunk.document_id in documents for chunk in topic.chunks)
