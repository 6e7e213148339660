"""JSON out of what a language model wrote.

Servers that follow a schema return nothing but JSON; others wrap it in prose or a code fence, leave
a comma too many, or stop in the middle. What is repaired here is only what has one reading: a
quote in the wrong style or a missing brace in the middle is not guessed at.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

_FENCE = re.compile(r"```[ \t]*(?:json|JSON)?[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
_SPACE = re.compile(r"[ \t\r\n]*")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_DEEPEST = 64


def parse_json(text: str) -> Any | None:
    """The JSON value in a completion, or `None` when there is none.

    Text that is JSON as a whole is returned as it is. Otherwise the longest object or list in it
    counts, inside code fences before outside. Commas before a closing bracket are forgiven, as are
    line ends in strings and backslashes that escape nothing. In output that was cut off, lists keep
    their complete items, and the outermost objects their complete members; an object inside a list
    is kept whole or not at all.
    """
    for candidate in (text, *_FENCE.findall(text)):
        try:
            return _well_formed(_DECODER.decode(candidate.strip()))
        except (ValueError, RecursionError):
            continue
    for candidate in (*_FENCE.findall(text), text):
        found = _longest(_ESCAPE.sub(_mend_escape, candidate))
        if found is not None:
            return _well_formed(found)
    return None


def well_formed(text: str) -> str:
    """The text without half characters (lone surrogates), which no file could hold.

    Servers send them, as JSON escapes, when the output ends in the middle of a character.
    """
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _mend_escape(match: re.Match[str]) -> str:
    return match[0] if match[1] in '"\\/bfnrtu' else f"\\{match[0]}"


class _NoJsonError(ValueError):
    """Not JSON, not even after forgiving."""


class _TooDeepError(_NoJsonError):
    """Nested more deeply than any answer.

    Args:
        position: where it became too deep.
    """

    def __init__(self, position: int) -> None:
        super().__init__("nested too deeply")
        self.position = position


class _Read(NamedTuple):
    """A value, where it ends, and whether the text ended before it did."""

    value: Any
    end: int
    is_cut: bool = False


def _refuse_constant(name: str) -> Any:
    raise _NoJsonError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(strict=False, parse_constant=_refuse_constant)


def _longest(text: str) -> Any | None:
    """The value of the longest object or list that starts anywhere in `text`."""
    best: Any | None = None
    longest = 0
    position = 0
    while (start := _next_bracket(text, position)) is not None:
        try:
            read = _read_value(text, start, depth=0, keeps_part=True)
        except _TooDeepError as error:
            # Going back to each bracket on the way here would take time in its square.
            position = error.position
            continue
        except ValueError:
            position = start + 1
            continue
        if read.end - start > longest and not (read.is_cut and not read.value):
            best, longest = read.value, read.end - start
        position = read.end
    return best


def _next_bracket(text: str, position: int) -> int | None:
    found = [at for at in (text.find("{", position), text.find("[", position)) if at >= 0]
    return min(found, default=None)


def _read_value(text: str, position: int, *, depth: int, keeps_part: bool) -> _Read:
    """The value at `position`; `keeps_part`: whether a cut object may keep its complete members."""
    if depth > _DEEPEST:
        raise _TooDeepError(position)
    if text.startswith("[", position):
        return _read_list(text, position + 1, depth)
    if text.startswith("{", position):
        return _read_object(text, position + 1, depth, keeps_part=keeps_part)
    try:
        value, end = _DECODER.raw_decode(text, position)
    except json.JSONDecodeError:
        if _is_cut_scalar(text, position):
            return _Read(None, len(text), is_cut=True)
        raise
    # The last digit of a cut text may not be the number's last.
    is_open_number = end == len(text) and isinstance(value, int | float)
    return _Read(value, end, is_cut=is_open_number and not isinstance(value, bool))


def _is_cut_scalar(text: str, position: int) -> bool:
    rest = text[position:]
    if not rest.startswith('"'):
        return any(word.startswith(rest) for word in ("true", "false", "null", "-"))
    return re.search(r'(?<!\\)(?:\\\\)*"', rest[1:]) is None


def _read_list(text: str, position: int, depth: int) -> _Read:
    items: list[Any] = []
    while True:
        position = _skip_space(text, position)
        if position >= len(text):
            return _Read(items, len(text), is_cut=True)
        if text[position] == "]":
            return _Read(items, position + 1)
        item = _read_value(text, position, depth=depth + 1, keeps_part=False)
        if item.is_cut:
            return _Read(items, item.end, is_cut=True)
        items.append(item.value)
        position = _skip_comma(text, item.end, closing="]")


def _read_object(text: str, position: int, depth: int, *, keeps_part: bool) -> _Read:
    members: dict[str, Any] = {}
    while True:
        position = _skip_space(text, position)
        if position >= len(text):
            return _Read(members, len(text), is_cut=True)
        if text[position] == "}":
            return _Read(members, position + 1)
        name = _read_value(text, position, depth=depth + 1, keeps_part=False)
        colon = _skip_space(text, name.end)
        if name.is_cut or colon >= len(text):
            return _Read(members, len(text), is_cut=True)
        if not isinstance(name.value, str) or text[colon] != ":":
            raise _NoJsonError("no member")
        position = _skip_space(text, colon + 1)
        if position >= len(text):
            return _Read(members, len(text), is_cut=True)
        member = _read_value(text, position, depth=depth + 1, keeps_part=keeps_part)
        if member.is_cut:
            if keeps_part and isinstance(member.value, list | dict) and member.value:
                members[name.value] = member.value
            return _Read(members, member.end, is_cut=True)
        members[name.value] = member.value
        position = _skip_comma(text, member.end, closing="}")


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _skip_comma(text: str, position: int, *, closing: str) -> int:
    position = _skip_space(text, position)
    if position >= len(text) or text[position] == closing:
        return position
    if text[position] != ",":
        raise _NoJsonError("no comma between items")
    return position + 1


def _well_formed(value: Any) -> Any:
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, list):
        return [_well_formed(item) for item in value]
    if isinstance(value, dict):
        return {well_formed(name): _well_formed(item) for name, item in value.items()}
    return value
