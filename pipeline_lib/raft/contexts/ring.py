"""Random picks that stay the same while other things come and go.

Names lie on a ring, each at a place that depends on the name alone. A draw is a point of the ring:
of the few names that follow it, the one with the smallest hash of draw and name wins (rendezvous
hashing, Thaler and Ravishankar 1998, among neighbours only). A name that is added or removed
changes a draw with a probability of about two over the number of names, where shuffling all names
would change every draw; and a draw costs the same in a corpus of any size.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator

from pipeline_lib.artifacts.manifest import canonical_json
from pipeline_lib.raft.keys import unit_interval

_NEIGHBOURS = 16
"""Names that compete for a draw. More of them make picks more even: the share of draws that a name
wins deviates by about one over the square root of this."""
_DRAWS = 64


class HashRing:
    """Draws from a set of names.

    Args:
        names: each once, in any order.
        seed: of the dataset.
    """

    def __init__(self, names: Iterable[str], seed: int) -> None:
        placed = sorted((unit_interval(seed, "ring", name), name) for name in names)
        self._places = [place for place, _ in placed]
        self._names = [name for _, name in placed]
        self._seed = seed

    def __len__(self) -> int:
        return len(self._names)

    def walk(self, key: str) -> Iterator[str]:
        """All names, each once, the randomly drawn ones first.

        Args:
            key: whoever draws; equal keys see the same order.
        """
        seen: set[str] = set()
        for draw in range(min(_DRAWS, 4 * len(self._names))):
            name = self._draw(key, draw)
            if name not in seen:
                seen.add(name)
                yield name
        for name in self._from(unit_interval(self._seed, key, "rest"), len(self._names)):
            if name not in seen:
                yield name

    def _draw(self, key: str, draw: int) -> str:
        near = self._from(unit_interval(self._seed, key, draw), _NEIGHBOURS)
        base = hashlib.sha256(canonical_json([self._seed, key, draw]))

        def weight(name: str) -> bytes:
            own = base.copy()
            own.update(name.encode())
            return own.digest()

        return min(near, key=weight)

    def _from(self, point: float, count: int) -> Iterator[str]:
        """The next `count` names from `point` on, round the ring at most once."""
        start = bisect_left(self._places, point)
        for step in range(min(count, len(self._names))):
            yield self._names[(start + step) % len(self._names)]
