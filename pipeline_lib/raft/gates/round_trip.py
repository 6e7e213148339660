"""Whether retrieval finds a question's passages again."""

from __future__ import annotations

from pipeline_lib.raft.candidates import Candidate, Rejection
from pipeline_lib.raft.gates.base import SingleGate


class RoundTrip(SingleGate):
    """Every oracle passage is among the best hits.

    A question that its passages are not found for is too vague, or about something else. Questions
    that the corpus does not answer have nothing to find; the user's own are taken as they are.

    Args:
        top_k: how many hits count, from 1.
    """

    step = "round_trip"

    def __init__(self, top_k: int) -> None:
        self._top_k = top_k

    def check_one(self, candidate: Candidate) -> Rejection | None:
        """See `SingleGate`."""
        if candidate.source == "user":
            return None
        best = candidate.hits[: self._top_k]
        missing = [
            chunk.chunk_id
            for chunk in candidate.oracles
            if not any(hit.covers(chunk.chunk_id) for hit in best)
        ]
        if not missing:
            return None
        return Rejection(self.step, f"not_in_top_{self._top_k}", " ".join(missing))
