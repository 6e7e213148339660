"""What a search returns, and how a stored payload becomes one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline_lib.retrieval.fusion import Candidate
from pipeline_lib.retrieval.schema import BM25, DENSE


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One retrieved passage.

    Scores compare hits of one query only. A branch's score and rank are `None` where that branch
    did not find the passage among its candidates, or was not asked.
    """

    chunk_id: str
    document_id: str
    title: str
    source_uri: str
    text: str
    start: int
    end: int
    rank: int
    """From 1."""
    score: float
    """What the passage was ranked by: the rerank score, else the fused score, else its branch's.
    Maximal marginal relevance changes ranks, not scores."""
    dense_score: float | None = None
    """Cosine similarity."""
    dense_rank: int | None = None
    """From 1, as all ranks."""
    sparse_score: float | None = None
    """BM25."""
    sparse_rank: int | None = None
    fused_score: float | None = None
    """`None` unless the search was hybrid."""
    rerank_score: float | None = None
    """The cross-encoder's output before any activation; `None` without one."""
    ordinal: int = 0
    """Position of the chunk in its document, from 0."""
    heading_path: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    """The pages, slides or sheets of the chunk, as `page 3`."""
    language: str = ""
    media_type: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What the document's source says of it."""
    covered_ids: tuple[str, ...] = ()
    """All chunks that `text` covers, in their order, where the passage was expanded."""

    def covers(self, chunk_id: str) -> bool:
        """Whether `text` holds this chunk: its own, or one that it was expanded by."""
        return chunk_id == self.chunk_id or chunk_id in self.covered_ids


def renumbered(hits: Iterable[Hit]) -> list[Hit]:
    """The hits in a new order, with ranks to match."""
    return [replace(hit, rank=rank) for rank, hit in enumerate(hits, start=1)]


def make_hit(candidate: Candidate, payload: Mapping[str, Any], *, rank: int) -> Hit:
    """A candidate with its point's payload; fields that older points lack are empty."""
    dense, sparse = candidate.places.get(DENSE), candidate.places.get(BM25)
    return Hit(
        chunk_id=payload["chunk_id"],
        document_id=payload["document_id"],
        title=payload["title"],
        source_uri=payload["source_uri"],
        text=payload["text"],
        start=payload["start"],
        end=payload["end"],
        rank=rank,
        score=candidate.score,
        dense_score=dense.score if dense else None,
        dense_rank=dense.rank if dense else None,
        sparse_score=sparse.score if sparse else None,
        sparse_rank=sparse.rank if sparse else None,
        fused_score=candidate.score if candidate.is_fused else None,
        ordinal=payload["ordinal"],
        heading_path=tuple(payload.get("heading_path") or ()),
        places=tuple(payload.get("places") or ()),
        language=payload.get("language") or "",
        media_type=payload.get("media_type") or "",
        metadata=payload.get("metadata") or {},
    )
