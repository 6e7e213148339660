"""Repeats requests that failed for a passing reason, with growing and random pauses."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from pipeline_lib.errors import VectorStoreUnavailableError
from pipeline_lib.retrieval.qdrant_errors import retry_after_seconds

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
_sleep = time.sleep


def retried(call: Callable[[], _T], max_retries: int) -> _T:
    """What `call` returns, tried again when the server is away or asks for fewer requests.

    Pauses are drawn between half and all of 0.5, 1, 2, 4, … s, so that clients that failed
    together do not come back together; a server's Retry-After is kept to, up to 30 s.

    Raises:
        VectorStoreUnavailableError: the last try failed as well.
    """
    for attempt in range(max_retries):
        try:
            return call()
        except VectorStoreUnavailableError as error:
            longest = min(FIRST_PAUSE_SECONDS * 2**attempt, LONGEST_PAUSE_SECONDS)
            pause = random.uniform(longest / 2, longest)  # noqa: S311
            asked = retry_after_seconds(error)
            if asked is not None:
                pause = max(pause, min(asked, LONGEST_PAUSE_SECONDS))
            logger.warning(
                "%s; trying again in %.1f s (%d of %d)",
                error.message,
                pause,
                attempt + 1,
                max_retries,
            )
            _sleep(pause)
    return call()
