"""How tests ask a Prefect server over HTTP, as any client does."""

from __future__ import annotations

import time

import httpx

_TIMES = 20
_PAUSE_SECONDS = 0.5
_TIMEOUT_SECONDS = 120.0
"""While several runs start on few cores, an answer may take a minute."""


class PatientTransport(httpx.HTTPTransport):
    """Asks again when SQLite is locked: the server then answers 503, which its clients repeat."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        for _ in range(_TIMES):
            response = super().handle_request(request)
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                return response
            response.close()
            time.sleep(_PAUSE_SECONDS)
        return super().handle_request(request)


def prefect_client(url: str) -> httpx.Client:
    """A client of the API at `url`; the caller closes it."""
    return httpx.Client(base_url=url, timeout=_TIMEOUT_SECONDS, transport=PatientTransport())
