"""Why inputs do not become documents, and when too many of them do not."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum

from pipeline_lib.corpus.schema import Drop
from pipeline_lib.errors import InputError, TooManyDropsError

_NUM_SHOWN_REASONS = 3


class DropReason(StrEnum):
    """The values of `Drop.reason`."""

    HIDDEN = "hidden"
    """A file or folder whose name begins with a dot; a hidden folder counts once."""
    FOLDER_LINK = "folder_link"
    """A symbolic link to a folder: following it could leave the source or go round in circles."""
    NOT_A_FILE = "not_a_file"
    """A pipe, socket or device."""
    UNREADABLE = "unreadable"
    """The operating system refused, or a link leads nowhere."""
    TOO_LARGE = "too_large"
    UNSUPPORTED_TYPE = "unsupported_type"
    BINARY = "binary"
    UNKNOWN_ENCODING = "unknown_encoding"
    BROKEN_JSON = "broken_json"
    """One line of a JSONL file."""
    INVALID_RECORD = "invalid_record"
    """One line of a JSONL file: JSON, but without a usable `text`."""
    NO_MAIN_CONTENT = "no_main_content"
    """An HTML page with nothing but navigation, or nothing at all."""
    EMPTY = "empty"
    DUPLICATE = "duplicate"
    """Its cleaned text is that of an earlier document."""
    DUPLICATE_URI = "duplicate_uri"
    """Another text under the URI of an earlier document."""


class RefusedInputError(Exception):
    """Raised while one input is parsed; becomes a `Drop` and never reaches the user as an error."""

    def __init__(self, reason: DropReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail

    def to_drop(self, source_uri: str) -> Drop:
        """The record of this refusal."""
        return Drop(source_uri=source_uri, reason=self.reason.value, detail=self.detail)


class DropTally:
    """Counts drops by reason and keeps the first example of each."""

    def __init__(self) -> None:
        self.by_reason: Counter[str] = Counter()
        self._examples: dict[str, Drop] = {}

    def add(self, drop: Drop) -> None:
        """Count one drop."""
        self.by_reason[drop.reason] += 1
        self._examples.setdefault(drop.reason, drop)

    def check(self, num_documents: int, max_dropped_fraction: float) -> None:
        """Judge the whole corpus. Hidden entries are left out by rule and are not held against it.

        Raises:
            InputError: no document is left.
            TooManyDropsError: the share of dropped inputs exceeds `max_dropped_fraction`.
        """
        num_dropped = self.by_reason.total() - self.by_reason[DropReason.HIDDEN]
        num_inputs = num_documents + num_dropped
        if num_documents == 0:
            raise InputError(
                f"None of the {num_inputs} inputs became a document. {self._summary()}"
                if self.by_reason
                else "The sources hold no files",
                hint="Look at the reasons above, or name other sources in ingest.sources.",
            )
        if num_dropped > max_dropped_fraction * num_inputs:
            raise TooManyDropsError(
                f"{num_dropped} of {num_inputs} inputs ({num_dropped / num_inputs:.0%}) were "
                f"dropped, more than max_dropped_fraction = {max_dropped_fraction:g} allows. "
                f"{self._summary()}",
                hint="Repair or remove these inputs, or raise ingest.max_dropped_fraction.",
            )

    def _summary(self) -> str:
        parts = []
        for reason, count in self.by_reason.most_common(_NUM_SHOWN_REASONS):
            example = self._examples[reason]
            parts.append(f"{reason}: {count}, for example {example.source_uri} ({example.detail})")
        return "Most common: " + "; ".join(parts) + "."
