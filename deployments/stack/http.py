"""Small JSON requests to servers on loopback, past any configured proxy."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from http import HTTPStatus
from http.client import HTTPException
from typing import Any

_PAUSE_SECONDS = 0.5
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class HttpError(Exception):
    """No usable answer. `status` is `None` when there was none at all."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def request_json(
    url: str, body: Any = None, *, timeout_seconds: float = 5.0, patience_seconds: float = 10.0
) -> Any:
    """GET, or POST when there is a body.

    Args:
        url: where to.
        body: what to send, JSON-ready.
        timeout_seconds: of one attempt.
        patience_seconds: how long a 503 is answered by another attempt. Prefect's server gives
            it while its SQLite file is locked, and has then done nothing.

    Raises:
        HttpError: refused, timed out, an error status, or an answer that is not JSON.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return _attempt(url, body, timeout_seconds)
        except HttpError as error:
            is_busy = error.status == HTTPStatus.SERVICE_UNAVAILABLE
            if not is_busy or time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE_SECONDS)


def _attempt(url: str, body: Any, timeout_seconds: float) -> Any:
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
