"""What an archive may unpack to, with all archives in it."""

from __future__ import annotations

from pipeline_lib.config.corpus import IngestLimits
from pipeline_lib.corpus.drops import DropReason, RefusedInputError
from pipeline_lib.corpus.sources.archives import unpacks_to_too_much


class Budget:
    """What one archive, with all archives in it, may still unpack to."""

    def __init__(self, limits: IngestLimits) -> None:
        self._limits = limits
        self._num_bytes = self._num_members = 0

    def spend(self, num_bytes: int) -> None:
        """Take so many bytes."""
        self.require(num_bytes)
        self._num_bytes += num_bytes

    def require(self, num_bytes: int) -> None:
        """Check that so many bytes are left, without spending them."""
        if self._num_bytes + num_bytes > self._limits.max_unpacked_bytes:
            raise BombError(unpacks_to_too_much(self._num_bytes + num_bytes, self._limits))

    def count_member(self) -> None:
        """Take one member."""
        self._num_members += 1
        if self._num_members > self._limits.max_members:
            detail = (
                f"{self._num_members} members or more, with those of inner archives; "
                f"ingest.limits.max_members is {self._limits.max_members}"
            )
            raise BombError(RefusedInputError(DropReason.TOO_MANY_MEMBERS, detail))


class BombError(Exception):
    """Ends the examination of the outermost archive, not only of the member it is found in."""

    def __init__(self, refusal: RefusedInputError) -> None:
        super().__init__(refusal.detail)
        self.refusal = refusal
