"""Why inputs do not become documents, what to do about it, and when too many of them do not."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import Self

from pipeline_lib.corpus.schema import Drop
from pipeline_lib.errors import InputError, TooManyDropsError

_NUM_SHOWN_REASONS = 3


class DropReason(StrEnum):
    """The values of `Drop.reason`; each with its remedy.

    A reason that the same bytes and the same configuration always give is repeatable: an input
    dropped for it is dropped again without being parsed.
    """

    _value_: str
    remedy: str
    """What to do to have the input in the corpus; one sentence for people."""
    is_repeatable: bool

    def __new__(cls, value: str, remedy: str, is_repeatable: bool = True) -> Self:
        """A member is its value, a string."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.remedy = remedy
        member.is_repeatable = is_repeatable
        return member

    # Found while the sources are listed.
    HIDDEN = "hidden", "Rename it without the leading dot, or name it as a source of its own."
    """A file or folder whose name begins with a dot; a hidden folder counts once."""
    FOLDER_LINK = "folder_link", "Name the folder that the link leads to as a source."
    """A symbolic link to a folder: following it could leave the source or go round in circles."""
    NOT_A_FILE = "not_a_file", "Nothing to do: pipes, sockets and devices hold no documents."
    """A pipe, socket or device."""
    UNREADABLE = "unreadable", "Repair its permissions, or the link that leads nowhere.", False
    """The operating system or the store refused, or a link leads nowhere."""
    TOO_LARGE = "too_large", "Split it, or raise ingest.limits.max_file_bytes."
    UNSUPPORTED_TYPE = "unsupported_type", "Convert it to a format that ingest reads."

    # Archives.
    UNSAFE_PATH = "unsafe_path", "Pack the archive again with names relative to its top folder."
    """A member that would lie outside the archive, or is a link or a device."""
    ARCHIVE_BOMB = (
        "archive_bomb",
        "If the archive is trusted, unpack it and name the folder, or raise "
        "ingest.limits.max_unpacked_bytes.",
    )
    """It unpacks to far more than it holds, or to more than is allowed."""
    TOO_MANY_MEMBERS = (
        "too_many_members",
        "Split the archive, or raise ingest.limits.max_members.",
    )
    TOO_NESTED = "too_nested", "Unpack the inner archives, or raise ingest.limits.max_nesting."

    # The web.
    FORBIDDEN_ADDRESS = (
        "forbidden_address",
        "If the address is meant, set ingest.web.allow_private_addresses.",
    )
    """A URL, or a redirect, that leads to a private, loopback or link-local address."""
    FORBIDDEN_BY_ROBOTS = (
        "forbidden_by_robots",
        "Ask the site's owner, or save the page and name the file as a source.",
        False,
    )
    FETCH_FAILED = "fetch_failed", "Look whether the URL opens in a browser; run again.", False
    """No answer, an error status, or too many redirects."""
    TOO_MANY_URLS = "too_many_urls", "Raise ingest.web.max_urls, or name part of the site.", False

    # Content.
    BINARY = "binary", "Convert it to text, or give it the suffix of what it really is."
    UNKNOWN_ENCODING = "unknown_encoding", "Save it as UTF-8."
    BROKEN_FILE = "broken_file", "Open it in the program that made it and save it again."
    """Damaged, cut short, or not what it claims to be."""
    ENCRYPTED = "encrypted", "Save a copy without password."
    TOO_MANY_PAGES = "too_many_pages", "Split it, or raise ingest.limits.max_pages."
    UNPACKED_TOO_LARGE = (
        "unpacked_too_large",
        "Save it without large pictures, split it, or raise ingest.limits.max_unpacked_bytes.",
    )
    """A document that is a zip inside (DOCX, XLSX, EPUB) and unpacks to more than is allowed."""
    BROKEN_JSON = "broken_json", "Repair that line: one JSON object per line."
    """One line of a JSONL file."""
    INVALID_RECORD = (
        "invalid_record",
        "Repair that record, or name the columns in ingest.records.",
    )
    """One record: readable, but without a usable text."""
    MISSING_COLUMN = "missing_column", "Name the column that holds the text in ingest.records.text."
    NO_MAIN_CONTENT = (
        "no_main_content",
        "If the page has text that matters, save it as Markdown or plain text.",
    )
    """An HTML page with nothing but navigation, or nothing at all."""
    NO_TEXT = "no_text", "Run OCR over it first; ingest reads text, not pictures of text."
    """A PDF of scanned pages, a presentation of pictures."""
    EMPTY = "empty", "Nothing to do: there is no text in it."

    # What a parser did.
    TIMED_OUT = "timed_out", "Split or simplify it, or raise ingest.limits.max_seconds.", False
    OUT_OF_MEMORY = "out_of_memory", "Split it, or raise ingest.limits.max_memory_bytes.", False
    PARSER_CRASHED = (
        "parser_crashed",
        "Save it again in the program that made it, or convert it to another format.",
        False,
    )

    # Filters and copies.
    TOO_SHORT = "too_short", "Lower ingest.filters.min_chars."
    TOO_LONG = "too_long", "Split it, or raise ingest.filters.max_chars."
    OTHER_LANGUAGE = "other_language", "Add its language to ingest.filters.languages."
    PERSONAL_DATA = "personal_data", "Set ingest.filters.personal_data to 'redact' or 'keep'."
    SECRETS = "secrets", "Revoke the secret; set ingest.filters.secrets to 'redact'."
    DUPLICATE = "duplicate", "Nothing to do: its text is in the corpus, under the URI named."
    """Its cleaned text is that of an earlier document."""
    NEAR_DUPLICATE = (
        "near_duplicate",
        "To keep such variants, raise ingest.deduplication.threshold or switch near_duplicates "
        "off.",
    )
    """Its text is nearly that of an earlier document."""
    DUPLICATE_URI = "duplicate_uri", "Give each record an id of its own."
    """Another text under the URI of an earlier document."""


class RefusedInputError(Exception):
    """Raised while one input is read or parsed; becomes a `Drop`, never an error for the user."""

    def __init__(self, reason: DropReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail

    def to_drop(self, source_uri: str) -> Drop:
        """The record of this refusal."""
        return make_drop(source_uri, self.reason, self.detail)


def make_drop(source_uri: str, reason: DropReason, detail: str) -> Drop:
    """A drop with the remedy that belongs to its reason.

    Args:
        source_uri: which input, or which document in it.
        reason: why.
        detail: what was found, with the values seen.
    """
    return Drop(source_uri=source_uri, reason=reason.value, detail=detail, remedy=reason.remedy)


_REMEDIES = {reason.value: reason.remedy for reason in DropReason}


def remedy_of(reason: str) -> str:
    """What helps against a reason; empty for one that is not of Raftline's own."""
    return _REMEDIES.get(reason, "")


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
