"""Small JSON requests to servers on loopback, past any configured proxy."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class HttpError(Exception):
    """No usable answer. `status` is `None` when there was none at all."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def request_json(url: str, body: Any = None, *, timeout_seconds: float = 5.0) -> Any:
    """GET, or POST when there is a body.

    Raises:
        HttpError: refused, timed out, an error status, or an answer that is not JSON.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(  # noqa: S310 - only ever our own http:// addresses
        url, data=data, headers={"Content-Type": "application/json"}
    )
    try:
        with _OPENER.open(request, timeout=timeout_seconds) as response:
            return json.loads(response.read() or b"null")
    except urllib.error.HTTPError as error:
        with error:
            detail = error.read(500).decode(errors="replace")
        raise HttpError(f"{url} answered {error.code}: {detail}", error.code) from error
    except (OSError, HTTPException, ValueError) as error:
        raise HttpError(f"{url} did not answer: {error}") from error
