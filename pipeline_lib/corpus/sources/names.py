"""What sources, archives and buckets share about names: hidden ones, patterns, readable text."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from fnmatch import fnmatchcase

_MACOS_FOLDER = "__MACOSX"
"""Where macOS packs resource forks into zip archives."""


def readable(name: str) -> str:
    """A file name as text: composed (macOS decomposes), undecodable bytes as backslash escapes."""
    return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "backslashreplace"))


def hidden_part(name: str, num_named: int = 0) -> str | None:
    """The path up to its first hidden part: a hidden folder counts once.

    Args:
        name: a path with slashes.
        num_named: how many of its leading parts the user named; those are not hidden.
    """
    parts = name.split("/")
    for count, part in enumerate(parts, start=1):
        is_hidden = (part.startswith(".") and part not in (".", "..")) or part == _MACOS_FOLDER
        if count > num_named and is_hidden:
            return "/".join(parts[:count])
    return None


def matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path matches a glob, part by part; `**` stands for any number of folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return matches(parts, pattern[1:]) or (bool(parts) and matches(parts[1:], pattern))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and matches(parts[1:], pattern[1:])
