"""Compares a collection with what it should hold, and says precisely what differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline_lib.errors import VectorStoreError
from pipeline_lib.retrieval.digests import PointDifference, PointDigests
from pipeline_lib.retrieval.embedder import Embedder
from pipeline_lib.retrieval.schema import BM25, DENSE, Payload, Payloads
from pipeline_lib.retrieval.sparse import Bm25Encoder
from pipeline_lib.retrieval.store import VectorStore

if TYPE_CHECKING:
    from qdrant_client.models import Record, SparseVector

LOWEST_COSINE = 0.999
"""Between a stored vector and the one that was meant; Qdrant normalises, so lengths may differ."""
_SPARSE_TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class VerificationReport:
    """What a verification found; the tuples hold a few examples of point ids."""

    collection: str
    num_expected: int
    num_found: int
    num_missing: int
    missing: tuple[str, ...]
    num_changed: int
    """Points whose recorded payload digest is another one."""
    changed: tuple[str, ...]
    num_foreign: int
    """Points that nothing asks for."""
    foreign: tuple[str, ...]
    num_sampled: int
    """Points whose vectors and payloads were read back."""
    wrong_dense: tuple[str, ...]
    """All points of the sample whose dense vector is not the one that was meant."""
    wrong_bm25: tuple[str, ...]
    wrong_payloads: tuple[str, ...]
    lowest_cosine: float
    """Of the sample's dense vectors; 1 for an empty sample."""

    @property
    def has_wrong_contents(self) -> bool:
        """Whether points are there whose contents are not what their digest says."""
        return bool(self.wrong_dense or self.wrong_bm25 or self.wrong_payloads)

    @property
    def is_clean(self) -> bool:
        """Whether nothing differs."""
        return not (
            self.num_missing or self.num_changed or self.num_foreign or self.has_wrong_contents
        )

    def describe(self) -> str:
        """What differs, in one sentence."""
        if self.is_clean:
            return (
                f"{self.collection} holds the {self.num_expected} points that were meant; "
                f"{self.num_sampled} were compared in full"
            )
        sampled = f"of {self.num_sampled} sampled points"
        findings = [
            _finding(self.num_missing, "are missing", self.missing),
            _finding(self.num_foreign, "are not ours", self.foreign),
            _finding(self.num_changed, "have another payload", self.changed),
            _finding(
                len(self.wrong_dense),
                f"{sampled} have another dense vector (lowest cosine {self.lowest_cosine:.4f})",
                self.wrong_dense,
            ),
            _finding(len(self.wrong_bm25), f"{sampled} have another BM25 vector", self.wrong_bm25),
            _finding(
                len(self.wrong_payloads), f"{sampled} have another payload", self.wrong_payloads
            ),
        ]
        return (
            f"{self.collection} is not what was meant: of {self.num_expected} points "
            + "; ".join(text for text in findings if text)
        )

    def require_clean(self) -> None:
        """Raise what differs.

        Raises:
            VectorStoreError: anything differs.
        """
        if not self.is_clean:
            raise VectorStoreError(
                self.describe(),
                hint="Another run of the same name may have changed it meanwhile. Run one at a "
                "time, or give them different names; then run the index stage again.",
            )


def verify_collection(
    store: VectorStore,
    collection: str,
    wanted: PointDigests,
    payloads: Payloads,
    embedder: Embedder,
    bm25: Bm25Encoder,
    *,
    sample: int,
    seed: int,
) -> VerificationReport:
    """Compare ids, digests and counts of all points, and the whole contents of a sample.

    Args:
        store: an entered store.
        collection: which must exist.
        wanted: what it should hold.
        payloads: the same with payloads.
        embedder: gives the dense vectors that were meant, from the cache or made anew.
        bm25: gives the sparse ones.
        sample: how many points to read back.
        seed: which ones.
    """
    found = store.digests(collection)
    difference = wanted.compare(found)
    meant = _sampled_payloads(wanted, payloads, sample, seed)
    contents = _compare_contents(store, collection, meant, embedder, bm25)
    return _report(collection, wanted, found, difference, contents)


@dataclass(frozen=True)
class _Contents:
    num_sampled: int
    cosines: Mapping[str, float]
    wrong_bm25: tuple[str, ...]
    wrong_payloads: tuple[str, ...]


def _report(
    collection: str,
    wanted: PointDigests,
    found: PointDigests,
    difference: PointDifference,
    contents: _Contents,
) -> VerificationReport:
    return VerificationReport(
        collection=collection,
        num_expected=len(wanted),
        num_found=len(found),
        num_missing=len(difference.missing),
        missing=difference.missing.examples(),
        num_changed=len(difference.changed),
        changed=difference.changed.examples(),
        num_foreign=len(difference.foreign),
        foreign=difference.foreign.examples(),
        num_sampled=contents.num_sampled,
        # Written so that a NaN counts as wrong.
        wrong_dense=tuple(p for p, c in contents.cosines.items() if not c >= LOWEST_COSINE),
        wrong_bm25=contents.wrong_bm25,
        wrong_payloads=contents.wrong_payloads,
        lowest_cosine=min(contents.cosines.values(), default=1.0),
    )


def _sampled_payloads(
    wanted: PointDigests, payloads: Payloads, sample: int, seed: int
) -> dict[str, Payload]:
    chosen = set(wanted.ids.sample(sample, seed))
    return {
        payload["chunk_id"]: payload
        for payload in payloads.values()
        if payload["chunk_id"] in chosen
    }


def _compare_contents(
    store: VectorStore,
    collection: str,
    meant: Mapping[str, Payload],
    embedder: Embedder,
    bm25: Bm25Encoder,
) -> _Contents:
    """Points of the sample that are missing are left out: they are reported as such."""
    records = {
        str(record.id): record for record in store.read(collection, meant, with_vectors=True)
    }
    if not records:
        return _Contents(0, {}, (), ())
    texts = [meant[point]["text"] for point in records]
    dense = dict(zip(records, embedder.vectors(texts), strict=True))
    sparse = dict(zip(records, bm25.encode_documents(texts), strict=True))
    return _Contents(
        num_sampled=len(records),
        cosines={p: _cosine(_vector(r, DENSE), dense[p]) for p, r in records.items()},
        wrong_bm25=tuple(
            p for p, r in records.items() if not _same_terms(_vector(r, BM25), sparse[p])
        ),
        wrong_payloads=tuple(p for p, r in records.items() if r.payload != meant[p]),
    )


def _vector(record: Record, name: str) -> Any:
    return record.vector.get(name) if isinstance(record.vector, dict) else None


def _cosine(stored: Any, meant: np.ndarray) -> float:
    if not isinstance(stored, list) or len(stored) != len(meant):
        return -1.0
    vector = np.asarray(stored, dtype=np.float64)
    ours, theirs = float(np.linalg.norm(meant)), float(np.linalg.norm(vector))
    if ours == 0 or theirs == 0:
        return 1.0 if ours == theirs else -1.0
    return float(vector @ meant / (ours * theirs))


def _same_terms(stored: SparseVector | None, meant: SparseVector) -> bool:
    ours = dict(zip(meant.indices, meant.values, strict=True))
    theirs = {} if stored is None else dict(zip(stored.indices, stored.values, strict=True))
    return ours.keys() == theirs.keys() and all(
        abs(ours[term] - theirs[term]) <= _SPARSE_TOLERANCE * max(1.0, abs(ours[term]))
        for term in ours
    )


def _finding(count: int, what: str, examples: tuple[str, ...]) -> str:
    if not count:
        return ""
    shown = ", ".join(examples[:3])
    return f"{count} {what} (for example {shown})"
