"""The built-in sample: Python's language reference, as every CPython carries it (PSF License)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from pipeline_lib.config import SAMPLE_SOURCE
from pipeline_lib.corpus.media_types import PLAIN_TEXT
from pipeline_lib.corpus.sources.base import SourceInput
from pipeline_lib.corpus.sources.locators import SampleLocator
from pipeline_lib.errors import InputError


def sample_inputs() -> Iterator[SourceInput]:
    """Its pages, by name."""
    from pydoc_data.topics import topics

    for page in sorted(topics):
        data = sample_page(page)
        yield SourceInput(
            uri=f"{SAMPLE_SOURCE}/{page}",
            locator=SampleLocator(page=page),
            content_sha256=hashlib.sha256(data).hexdigest(),
            size_bytes=len(data),
            media_type=PLAIN_TEXT,
        )


def sample_page(page: str) -> bytes:
    """The text of one page.

    Raises:
        InputError: this Python has no such page: other versions have others.
    """
    from pydoc_data.topics import topics

    if page not in topics:
        raise InputError(
            f"The sample has no page {page!r} here",
            hint="Use the same Python version on every worker.",
        )
    return topics[page].encode()
