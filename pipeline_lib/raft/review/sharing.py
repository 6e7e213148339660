"""The review page at an address that a browser opens, for those who were not sent a file."""

from __future__ import annotations

from pipeline_lib.raft.review.page import PAGE_FILE, render_page
from pipeline_lib.raft.review.sample import ReviewSample
from pipeline_lib.raft.review.state import state_key
from pipeline_lib.stage import Workspace

LONGEST_LINK_SECONDS = 7 * 86_400
"""S3 signs no address for longer."""


def share_page(ws: Workspace, sample: ReviewSample, *, valid_seconds: int) -> str:
    """Store the page beside the verdicts and return its address.

    Whoever has the address can read the page, without credentials, until it expires.

    Args:
        ws: live services.
        sample: what to show.
        valid_seconds: for how long; at most 7 days count.

    Raises:
        StoreError: the page cannot be stored.
    """
    key = state_key(sample.dataset.name, f"{sample.dataset.fingerprint}/{PAGE_FILE}")
    objects = ws.artifacts.objects
    objects.put_bytes(key, render_page(sample).encode())
    return objects.presigned_url(
        key,
        valid_seconds=min(valid_seconds, LONGEST_LINK_SECONDS),
        content_type="text/html; charset=utf-8",
    )
