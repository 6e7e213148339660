"""Which points there are and what their payloads are, at 24 bytes a point."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_ID_BYTES = 16
_ROW = np.dtype([("id", f"S{_ID_BYTES}"), ("digest", ">u8")])
PointId = str | int
"""A UUID; an unsigned number for points that are not ours."""


class PointIds:
    """A set of point ids, sorted."""

    def __init__(self, packed: npt.NDArray[np.bytes_]) -> None:
        self._packed = packed

    def __len__(self) -> int:
        return len(self._packed)

    def __iter__(self) -> Iterator[PointId]:
        data = self._packed.tobytes()
        return (
            _unpack(data[start : start + _ID_BYTES]) for start in range(0, len(data), _ID_BYTES)
        )

    def contains(self, ids: Sequence[PointId]) -> list[bool]:
        """For each of `ids` whether it is in the set."""
        if not len(self) or not ids:
            return [False] * len(ids)
        wanted = np.frombuffer(b"".join(map(_pack, ids)), dtype=f"S{_ID_BYTES}")
        positions = np.minimum(np.searchsorted(self._packed, wanted), len(self) - 1)
        return [bool(there) for there in self._packed[positions] == wanted]

    def examples(self, count: int = 3) -> tuple[str, ...]:
        """The first few, for a message."""
        return tuple(str(point) for point in PointIds(self._packed[:count]))

    def sample(self, count: int, seed: int) -> PointIds:
        """At most `count` of them, drawn at random without repetition."""
        count = min(count, len(self))
        chosen = np.random.default_rng(seed).choice(len(self), size=count, replace=False)
        return PointIds(self._packed[np.sort(chosen)])


@dataclass(frozen=True)
class PointDifference:
    """How the points that are there differ from those that should be."""

    missing: PointIds
    changed: PointIds
    """There, with another payload."""
    foreign: PointIds
    """There, though nothing asks for them."""


class PointDigests:
    """Point ids and the digests of their payloads, sorted by id."""

    def __init__(self, rows: npt.NDArray[np.void]) -> None:
        self._rows = rows

    @classmethod
    def of(cls, pairs: Iterable[tuple[PointId, str | None]]) -> PointDigests:
        """From ids and digests (16 hex digits); any other digest counts as unknown."""
        buffer = bytearray()
        for point, digest in pairs:
            buffer += _pack(point)
            buffer += _digest_bytes(digest)
        rows = np.frombuffer(bytes(buffer), dtype=_ROW)
        return cls(rows[np.argsort(rows["id"], kind="stable")])

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def ids(self) -> PointIds:
        """The ids."""
        return PointIds(np.ascontiguousarray(self._rows["id"]))

    def sha256(self) -> str:
        """One hash over all ids and digests."""
        return hashlib.sha256(self._rows.tobytes()).hexdigest()

    def repeated(self) -> PointIds:
        """Ids that come more than once."""
        ids = self._rows["id"]
        return PointIds(np.unique(ids[1:][ids[1:] == ids[:-1]]))

    def compare(self, found: PointDigests) -> PointDifference:
        """How `found` differs from this, which is how it should be."""
        ours, theirs = self._rows["id"], found._rows["id"]
        common, mine, other = np.intersect1d(ours, theirs, assume_unique=True, return_indices=True)
        differs = self._rows["digest"][mine] != found._rows["digest"][other]
        return PointDifference(
            missing=PointIds(np.setdiff1d(ours, theirs, assume_unique=True)),
            changed=PointIds(common[differs]),
            foreign=PointIds(np.setdiff1d(theirs, ours, assume_unique=True)),
        )


def _pack(point: PointId) -> bytes:
    if isinstance(point, int):
        return point.to_bytes(_ID_BYTES, "big")
    return uuid.UUID(point).bytes


def _unpack(packed: bytes) -> PointId:
    number = int.from_bytes(packed, "big")
    # Qdrant's numbers fit 8 bytes; a UUID whose first 8 bytes are zero has no version.
    return number if number < 1 << 64 else str(uuid.UUID(bytes=packed))


def _digest_bytes(digest: str | None) -> bytes:
    try:
        return int(digest or "", 16).to_bytes(8, "big")
    except (ValueError, OverflowError):
        return bytes(8)
