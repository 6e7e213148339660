"""The passages that accompany the oracles: near ones from retrieval, random ones, made-up ones.

A distractor must not answer the question, else a right answer would be taught to be wrong: what the
guards object to is left out, and counted. No passage comes twice, by id or by text, and none is an
oracle. Questions of the training split see no passage of the documents that are held out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Protocol

from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.errors import InputError
from pipeline_lib.raft.contexts.groups import ContextGroup
from pipeline_lib.raft.contexts.mix import DistractorOrigin
from pipeline_lib.raft.contexts.ring import HashRing
from pipeline_lib.raft.quotes import fold
from pipeline_lib.raft.rows import Split

JUDGED_ORIGINS: frozenset[DistractorOrigin] = frozenset({"retrieved", "same_document"})
"""What a judge is asked about: passages that are likely enough to answer."""
_MOST_LOOKED_AT = 4096
"""Random passages tried for one context: an answer that all of them hold (the product's name, in
its manual) would have a large corpus searched in vain."""


@dataclass(frozen=True, kw_only=True)
class Distractor:
    """A passage that does not answer the question."""

    chunk_id: str
    document_id: str
    text: str
    origin: DistractorOrigin
    source_chunk_id: str = ""
    """What a made-up passage was made from."""
    change: str = ""
    """What was changed in it."""

    @classmethod
    def of(cls, chunk: Chunk, origin: DistractorOrigin) -> Distractor:
        """A passage of the corpus."""
        return cls(
            chunk_id=chunk.chunk_id,
            document_id=chunk.document_id,
            text=chunk.text,
            origin=origin,
        )


@dataclass(frozen=True)
class Choice:
    """The distractors of a context, and what was left out on the way to them."""

    distractors: tuple[Distractor, ...]
    guarded: Counter[str]
    """Passages that might answer, by reason."""


class Refusals(Protocol):
    """What somebody who read the passages said against them."""

    def refusal(self, row_id: str, chunk_id: str) -> str | None:
        """Why a passage is no distractor for a row; `None` where nothing is known against it."""


class DistractorPool:
    """A corpus to draw distractors from.

    Args:
        chunks: the whole corpus.
        seed: of the dataset.
    """

    def __init__(self, chunks: Iterable[Chunk], *, seed: int) -> None:
        self._by_id = {chunk.chunk_id: chunk for chunk in chunks}
        self._split_of: Mapping[str, Split] = {}
        self._seed = seed
        self._ring = HashRing(self._by_id, seed)
        self._document_rings: dict[str, HashRing] = {}
        self._of_document: dict[str, list[str]] = {}
        for chunk in self._by_id.values():
            self._of_document.setdefault(chunk.document_id, []).append(chunk.chunk_id)

    def hold_out(self, split_of: Mapping[str, Split]) -> None:
        """Say which documents training rows must not see: all that are of another split.

        Args:
            split_of: document id to split; documents that are not in it serve every split.
        """
        self._split_of = split_of

    def chunk(self, chunk_id: str) -> Chunk | None:
        """A passage of the corpus."""
        return self._by_id.get(chunk_id)

    def training_chunks(self) -> Iterator[Chunk]:
        """The passages that training rows may see."""
        return (chunk for chunk in self._by_id.values() if self.serves(chunk, "train"))

    def serves(self, chunk: Chunk, split: Split) -> bool:
        """Whether questions of `split` may see a passage beside their own."""
        return split != "train" or self._split_of.get(chunk.document_id, "train") == "train"

    def check_size(self, num_needed: int) -> None:
        """Make sure that training rows of `num_needed` passages can be made at all.

        Raises:
            InputError: there are fewer passages of different text.
        """
        texts: set[str] = set()
        for chunk in self.training_chunks():
            texts.add(fold(chunk.text))
            if len(texts) == num_needed:
                return
        raise InputError(
            f"The documents that training rows may show have {len(texts)} different passages, "
            f"but a row needs {num_needed}",
            hint="Add documents, cut smaller chunks, or lower num_distractors.",
        )

    def choose(
        self,
        group: ContextGroup,
        counts: Mapping[DistractorOrigin, int],
        made_up: Sequence[Distractor],
        refusals: Refusals,
    ) -> Choice | None:
        """Distractors for a group, which its required passages are no part of.

        Where an origin has too few, retrieved passages take their place, and then random ones.

        Args:
            group: the questions.
            counts: distractors wanted by origin.
            made_up: adversarial and contradicting ones, in the order in which to take them.
            refusals: passages to leave out.

        Returns:
            `None` when the corpus has too few passages that do not answer.
        """
        picks = _Picks(self, group, refusals)
        for distractor in made_up:
            if picks.num_of(distractor.origin) < counts.get(distractor.origin, 0):
                picks.offer(distractor)
        wanted = sum(counts.values())
        picks.fill(
            self._neighbours(group), "same_document", picks.num + counts.get("same_document", 0)
        )
        picks.fill(self._retrieved(group), "retrieved", wanted - counts.get("random", 0))
        picks.fill(self.walk(group.key), "random", wanted)
        if picks.num < wanted:
            return None
        return Choice(tuple(picks.chosen), picks.guarded)

    def walk(self, key: str) -> Iterator[Chunk]:
        """Passages in an order drawn for `key`, each once, as many as are worth looking at."""
        return map(self._by_id.__getitem__, islice(self._ring.walk(key), _MOST_LOOKED_AT))

    def _neighbours(self, group: ContextGroup) -> Iterator[Chunk]:
        """Other passages of the documents asked about, in an order drawn for the group."""
        documents = sorted({c.document_id for draft in group.drafts for c in draft.sources})
        walks = [self._document_ring(document_id).walk(group.key) for document_id in documents]
        for one_of_each in zip_longest(*walks):
            yield from (self._by_id[name] for name in one_of_each if name is not None)

    def _document_ring(self, document_id: str) -> HashRing:
        if document_id not in self._document_rings:
            names = self._of_document.get(document_id, ())
            self._document_rings[document_id] = HashRing(names, self._seed)
        return self._document_rings[document_id]

    def _retrieved(self, group: ContextGroup) -> Iterator[Chunk]:
        """What retrieval found for the questions, by rank."""
        found: dict[str, int] = {}
        for draft in group.drafts:
            for hit in draft.candidate.hits:
                found[hit.chunk_id] = min(hit.rank, found.get(hit.chunk_id, hit.rank))
        for chunk_id in sorted(found, key=lambda name: (found[name], name)):
            if chunk_id in self._by_id:
                yield self._by_id[chunk_id]


class _Picks:
    """The distractors chosen so far, and what they must not be."""

    def __init__(self, pool: DistractorPool, group: ContextGroup, refusals: Refusals) -> None:
        self._pool = pool
        self._group = group
        self._refusals = refusals
        self._seen = set(group.source_ids)
        self._texts = {fold(chunk.text) for draft in group.drafts for chunk in draft.sources}
        self.chosen: list[Distractor] = []
        self.guarded: Counter[str] = Counter()

    @property
    def num(self) -> int:
        return len(self.chosen)

    def num_of(self, origin: DistractorOrigin) -> int:
        return sum(distractor.origin == origin for distractor in self.chosen)

    def fill(self, chunks: Iterator[Chunk], origin: DistractorOrigin, upto: int) -> None:
        """Take what can be taken until there are `upto` in all."""
        while self.num < upto and (chunk := next(chunks, None)) is not None:
            self.offer(Distractor.of(chunk, origin))

    def offer(self, distractor: Distractor) -> None:
        """Take a passage, unless it is there already, or might answer."""
        if distractor.chunk_id in self._seen or not self._is_for_split(distractor):
            return
        self._seen.add(distractor.chunk_id)
        text = fold(distractor.text)
        if text in self._texts:
            return
        reason = self._danger(distractor)
        if reason is not None:
            self.guarded[reason] += 1
            return
        self._texts.add(text)
        self.chosen.append(distractor)

    def _is_for_split(self, distractor: Distractor) -> bool:
        chunk = self._pool.chunk(distractor.chunk_id)
        return chunk is None or self._pool.serves(chunk, self._group.split)

    def _danger(self, distractor: Distractor) -> str | None:
        if distractor.source_chunk_id:  # made to be nearly an oracle, and checked by its maker
            return None
        refusals = (
            self._refusals.refusal(draft.row_id, distractor.chunk_id)
            for draft in self._group.drafts
        )
        return self._group.danger(distractor.text) or next(filter(None, refusals), None)
