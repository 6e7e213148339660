"""Connections that go only where the guard allows, and end in time."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from typing import Any

import httpcore

from pipeline_lib.corpus.sources.addresses import Resolve, checked_addresses


class GuardedBackend(httpcore.NetworkBackend):
    """Resolves and checks a host, connects to the checked address, and holds a deadline.

    Args:
        resolve: from names to addresses.
        allow_private: whether addresses that are not public are allowed too.
        deadline: when the last byte must have come, by `clock`.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        resolve: Resolve,
        *,
        allow_private: bool,
        deadline: float,
        clock: Callable[[], float],
    ) -> None:
        self._resolve = resolve
        self._allow_private = allow_private
        self._deadline = deadline
        self._clock = clock
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address that answers.

        Raises:
            RefusedInputError: the host leads where connections must not go.
            httpcore.ConnectError: no address answers.
        """
        failure: Exception | None = None
        for address in checked_addresses(
            host, port, self._resolve, allow_private=self._allow_private
        ):
            try:
                stream = self._sockets.connect_tcp(
                    address, port, self._left(timeout), local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
                continue
            return _TimedStream(stream, self._left)
        raise failure or httpcore.ConnectError(f"{host} has no address")

    def _left(self, timeout: float | None) -> float:
        left = self._deadline - self._clock()
        if left <= 0:
            raise httpcore.ReadTimeout("the time is up")
        return left if timeout is None else min(left, timeout)


class _TimedStream(httpcore.NetworkStream):
    """A stream whose every operation must end before the deadline of the whole."""

    def __init__(
        self, stream: httpcore.NetworkStream, left: Callable[[float | None], float]
    ) -> None:
        self._stream = stream
        self._left = left

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        secure = self._stream.start_tls(ssl_context, server_hostname, self._left(timeout))
        return _TimedStream(secure, self._left)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
