"""Which URLs may be fetched, and which addresses may be connected to."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from urllib.parse import quote, urlsplit, urlunsplit

from pipeline_lib.corpus.drops import DropReason, RefusedInputError

Resolve = Callable[[str, int], list[str]]
"""From host and port to numeric addresses; raises `OSError` when there are none."""

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_KEPT_IN_PATH = "/%:@!$&'()*+,;=~-._"
_MAX_URL_CHARS = 2048


def resolve(host: str, port: int) -> list[str]:
    """The system's answer: every address of a host, in its order of preference."""
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


def checked_addresses(host: str, port: int, resolve: Resolve, *, allow_private: bool) -> list[str]:
    """The addresses of a host, if every one of them may be connected to.

    Raises:
        RefusedInputError: the name has no address, or one that is not public.
    """
    try:
        found = resolve(host, port)
    except (OSError, UnicodeError) as error:
        detail = f"the host {host!r} has no address: {error}"
        raise RefusedInputError(DropReason.FETCH_FAILED, detail) from error
    for text in found:
        if not allow_private and not is_public(text):
            raise RefusedInputError(
                DropReason.FORBIDDEN_ADDRESS, f"{host} is {text}, which is not a public address"
            )
    return found


def is_public(text: str) -> bool:
    """Whether a numeric address lies on the public internet.

    An IPv6 address that stands for an IPv4 address (mapped, NAT64, 6to4, Teredo) is judged by that.
    """
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        return all(map(_is_public_itself, _embedded(address) or (address,)))
    return _is_public_itself(address)


def _is_public_itself(address: _Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address.is_site_local:
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _embedded(address: ipaddress.IPv6Address) -> tuple[ipaddress.IPv4Address, ...]:
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    if address in _NAT64:
        return (ipaddress.IPv4Address(int(address) & 0xFFFFFFFF),)
    if int(address) >> 32 == 0 and int(address) > 1:  # the obsolete ::a.b.c.d
        return (ipaddress.IPv4Address(int(address)),)
    return ()


def normal_url(text: str) -> str:
    """A URL in the one form that names its page: no fragment, percent-encoded, lower-case host.

    Raises:
        RefusedInputError: it is not an http or https address, or holds a user name.
    """
    try:
        parts = urlsplit(text.strip())
        host, port = (parts.hostname or "").encode("idna").decode(), parts.port
    except (ValueError, UnicodeError) as error:
        raise _not_fetched(f"not a URL: {error}") from error
    if parts.scheme.lower() not in ("http", "https") or not host:
        raise _not_fetched("not an http or https address")
    if parts.username is not None or parts.password is not None:
        raise _not_fetched("it holds a user name or a password")
    netloc = f"[{host}]" if ":" in host else host
    if port is not None and port != {"http": 80, "https": 443}[parts.scheme.lower()]:
        netloc += f":{port}"
    path = quote(parts.path or "/", safe=_KEPT_IN_PATH)
    query = quote(parts.query, safe=_KEPT_IN_PATH + "?")
    url = urlunsplit((parts.scheme.lower(), netloc, path, query, ""))
    if len(url) > _MAX_URL_CHARS:
        raise _not_fetched(f"a URL of {len(url)} characters; at most {_MAX_URL_CHARS} are fetched")
    return url


def without_credentials(text: str) -> str:
    """A URL as it may be shown."""
    scheme, separator, rest = text.strip().partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}"


def _not_fetched(detail: str) -> RefusedInputError:
    return RefusedInputError(DropReason.FETCH_FAILED, detail)
