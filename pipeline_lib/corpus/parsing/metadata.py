"""What documents say of themselves, made fit for JSON and for search filters."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping
from typing import Any

_MAX_VALUES = 1_000
_MAX_DEPTH = 6
_MAX_STRING_CHARS = 2_000


class _TooManyValuesError(Exception):
    """The metadata are a document of their own, or a YAML bomb."""


def json_ready(values: Mapping[Any, Any]) -> dict[str, Any]:
    """`values` with JSON types only: dates as ISO 8601, long strings cut, empty values left out.

    Beyond 1,000 values or six levels nothing is kept: YAML aliases can mean billions of values in
    a few lines.
    """
    try:
        ready = _ready(values, _Budget(_MAX_VALUES), 0)
    except _TooManyValuesError:
        return {}
    return dict(ready)


class _Budget:
    def __init__(self, num_values: int) -> None:
        self._left = num_values

    def spend(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise _TooManyValuesError


def _ready(value: Any, budget: _Budget, depth: int) -> Any:
    budget.spend()
    if depth > _MAX_DEPTH:
        raise _TooManyValuesError
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()[:_MAX_STRING_CHARS]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Mapping):
        pairs = ((str(key), _ready(entry, budget, depth + 1)) for key, entry in value.items())
        return {key: entry for key, entry in pairs if entry not in (None, "", [], {})}
    if isinstance(value, Iterable) and not isinstance(value, bytes | bytearray):
        return [_ready(entry, budget, depth + 1) for entry in value]
    return str(value)[:_MAX_STRING_CHARS]


def language_code(declared: object) -> str:
    """`en` for `en-GB`, `EN_us` or `en`; empty for what is no two-letter code (ISO 639-1)."""
    if not isinstance(declared, str):
        return ""
    code = declared.strip().replace("_", "-").partition("-")[0].lower()
    return code if len(code) == 2 and code.isascii() and code.isalpha() else ""
