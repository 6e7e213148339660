"""robots.txt by RFC 9309, with `Crawl-delay`, which the RFC lacks and sites use.

The standard library's parser knows neither `*` and `$` in paths nor the rule that the longest
match wins, so it would fetch pages that sites exclude.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

MAX_BYTES = 500 * 1024
"""What a crawler must read of the file at least (RFC 9309, 2.5); the rest is left out."""
_UNRESERVED = frozenset(string.ascii_letters + string.digits + "-._~")
_KEPT = "%/?:@!$&'()*+,;=~-._"
_ESCAPE = re.compile("%[0-9A-Fa-f]{2}")


@dataclass
class _Group:
    agents: list[str] = field(default_factory=list)
    rules: list[tuple[str, bool]] = field(default_factory=list)
    """Path pattern, and whether it allows."""
    delay_seconds: float | None = None


class Robots:
    """What one site's robots.txt says to one crawler.

    Args:
        text: the file.
        agent: the crawler's product token, in lower case.
    """

    def __init__(self, text: str, agent: str) -> None:
        groups = _parse(text)
        mine = [group for group in groups if agent in group.agents]
        mine = mine or [group for group in groups if "*" in group.agents]
        self._rules = [rule for group in mine for rule in group.rules]
        delays = [group.delay_seconds for group in mine if group.delay_seconds is not None]
        self.delay_seconds = max(delays, default=0.0)
        """Least time between two requests that the site asks for."""

    def allows(self, url: str) -> bool:
        """Whether the page may be fetched; of equally long matches an allowing one wins."""
        parts = urlsplit(url)
        path = _normal(parts.path or "/") + (f"?{_normal(parts.query)}" if parts.query else "")
        longest = max(
            ((len(pattern), allows) for pattern, allows in self._rules if _matches(pattern, path)),
            default=(0, True),
        )
        return longest[1]


def _parse(text: str) -> list[_Group]:
    groups: list[_Group] = []
    is_naming = False
    for line in text.lstrip("\ufeff").splitlines():
        key, colon, value = line.partition("#")[0].partition(":")
        key, value = key.strip().lower(), value.strip()
        if not colon:
            continue
        if key == "user-agent":
            if not is_naming:
                groups.append(_Group())
            is_naming = True
            groups[-1].agents.append(_product_token(value))
        elif key in ("allow", "disallow") and groups:
            is_naming = False
            if value:
                groups[-1].rules.append((_normal(value), key == "allow"))
        elif key == "crawl-delay" and groups:
            is_naming = False
            if re.fullmatch(r"\d{1,6}(\.\d{1,6})?", value):
                groups[-1].delay_seconds = float(value)
    return groups


def _product_token(value: str) -> str:
    token = re.match(r"[A-Za-z_-]+", value)
    return token[0].lower() if token else value


def _normal(path: str) -> str:
    """Percent-encoded where needed and not elsewhere, so that equal paths are equal text."""

    def plain(escape: re.Match[str]) -> str:
        character = chr(int(escape[0][1:], 16))
        return character if character in _UNRESERVED else escape[0].upper()

    return _ESCAPE.sub(plain, quote(path, safe=_KEPT))


def _matches(pattern: str, path: str) -> bool:
    """Literal parts in order, between `*`s; without backtracking, as a site may send anything."""
    is_anchored = pattern.endswith("$")
    first, *rest = pattern.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    position = len(first)
    if not rest:
        return not is_anchored or position == len(path)
    for part in rest[:-1]:
        found = path.find(part, position)
        if found < 0:
            return False
        position = found + len(part)
    if is_anchored:
        return len(path) - len(rest[-1]) >= position and path.endswith(rest[-1])
    return path.find(rest[-1], position) >= 0
