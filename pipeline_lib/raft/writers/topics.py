"""What to ask about, and in which order.

The order is a rank by hash: a passage's place depends on the seed and its own id, so documents that
come or go leave the order of all others alone. One topic of every passage comes before any
passage's second. Which kind and style of question a topic gets is drawn from its passage's id in
the same way.

Topics about two passages need a partner (see `pairing`): where a passage has none, it gets a
factual question in their place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count

from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.raft.candidates import Topic, Writer
from pipeline_lib.raft.keys import unit_interval
from pipeline_lib.raft.rows import Split
from pipeline_lib.raft.writers.kinds import (
    FACTUAL,
    PAIRED_KINDS,
    kind_shares,
    ranked_by_share,
    style_shares,
)
from pipeline_lib.raft.writers.pairing import PassagePairs


class TopicPlanner:
    """Topics of a corpus, by split.

    Args:
        config: the mix and the seed.
        writer: says what can be asked about a passage.
        chunks: of the corpus.
        split_of: document id to split; documents without one are not asked about.
    """

    def __init__(
        self,
        config: SynthesizeConfig,
        writer: Writer,
        chunks: Sequence[Chunk],
        split_of: Mapping[str, Split],
    ) -> None:
        self._seed = config.seed
        self._writer = writer
        self._kinds = kind_shares(config)
        self._styles = style_shares(config)
        self._chunks = chunks
        self._split_of = split_of
        self._pairs: dict[Split, PassagePairs] = {}

    def queue(self, split: Split) -> Iterator[Topic]:
        """All topics of a split, in their order, planned as they are drawn.

        A passage comes once for each combination of what the writer can ask about it and of a kind
        of question. Shares of kinds hold for the first topics of all passages, and fade as later
        ones are drawn.
        """
        chunks = [c for c in self._chunks if self._split_of.get(c.document_id) == split]
        for turn in count():
            still_open = []
            for chunk in sorted(chunks, key=lambda c: self._rank(split, c, turn)):
                topics = self._topics(split, chunk, turn + 1)
                if len(topics) > turn:
                    still_open.append(chunk)
                    yield topics[turn]
            if not still_open:
                return
            chunks = still_open

    def _rank(self, split: Split, chunk: Chunk, turn: int) -> tuple[float, str]:
        return unit_interval("rank", self._seed, split, chunk.chunk_id, turn), chunk.chunk_id

    def _topics(self, split: Split, chunk: Chunk, limit: int) -> list[Topic]:
        """The first topics of a passage, at most `limit`: another sentence each, then kind."""
        ordered = sorted(self._writer.topics(chunk, split), key=self._span_rank)
        topics: list[Topic] = []
        for number in range(len(self._kinds)):
            if len(topics) >= limit:
                break
            for topic in ordered:
                topics += self._kinds_of(split, topic, number + 1)[number:]
        return topics[:limit]

    def _kinds_of(self, split: Split, topic: Topic, limit: int) -> list[Topic]:
        """The topic as different kinds of questions, at most `limit`, in their drawn order."""
        place = (self._seed, topic.chunks[0].chunk_id, topic.span)
        found: dict[str, Topic] = {}
        for kind in ranked_by_share(self._kinds, "kind", *place):
            if len(found) == limit:
                break
            partner = self._partner(split, topic.chunks[0], kind)
            if kind in PAIRED_KINDS and partner is None:
                kind = FACTUAL
            style = ranked_by_share(self._styles, "style", *place, kind)[0]
            chunks = topic.chunks if partner is None else (*topic.chunks, partner)
            found.setdefault(kind, replace(topic, chunks=chunks, kind=kind, style=style))
        return list(found.values())

    def _partner(self, split: Split, chunk: Chunk, kind: str) -> Chunk | None:
        if kind not in PAIRED_KINDS:
            return None
        if split not in self._pairs:
            self._pairs[split] = PassagePairs(
                c
                for c in self._chunks
                if self._split_of.get(c.document_id) == split and self._writer.topics(c, split)
            )
        return self._pairs[split].partner(chunk)

    def _span_rank(self, topic: Topic) -> tuple[float, tuple[int, int]]:
        span = topic.span or (0, 0)
        return unit_interval("span", self._seed, topic.chunks[0].chunk_id, *span), span
