"""Translates what the Qdrant client raises, so that callers see Raftline's errors only."""

from __future__ import annotations

import json
import pickle
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

from pipeline_lib.errors import VectorStoreError, VectorStoreUnavailableError

if TYPE_CHECKING:
    import grpc
    from qdrant_client.http.exceptions import UnexpectedResponse

LOCAL_STORAGE_ERRORS = (sqlite3.Error, OSError, ValueError, KeyError, EOFError, pickle.PickleError)
"""What local mode raises over files that are damaged, unwritable, or not there."""

_KEY_HINT = "Set RAFTLINE_QDRANT_API_KEY to a key that may write."
_RETRY_HINT = "Is the server up? Its address is RAFTLINE_QDRANT_URL."
_MISSING_HINT = "Run the index stage again: it puts back what is missing."
_UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"
_CERTIFICATE_HINT = (
    "Set RAFTLINE_QDRANT_CA_FILE to the certificate of the authority that signed the server's."
)
_STRANGE = "it did not answer like Qdrant"
_STRANGE_HINT = (
    "Does RAFTLINE_QDRANT_URL lead to a Qdrant server, and is its version close to that of the "
    "installed qdrant-client?"
)
_TRANSIENT_STATUS = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
_FORBIDDEN_STATUS = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_LONGEST_DETAIL = 300


@contextmanager
def translated_errors(doing: str, where: str) -> Iterator[None]:
    """Run client calls; whatever the client raises leaves as a `VectorStoreError`.

    Args:
        doing: what the calls do, for the message ("search demo__1a2b").
        where: the server or folder, without credentials.

    Raises:
        VectorStoreUnavailableError: no connection, a timeout, throttling, or a 5xx answer.
            (A certificate that is not trusted is final: it will not be trusted later.)
        VectorStoreError: anything else; the hint says what to do about it.
    """
    import grpc
    from httpx import TransportError
    from qdrant_client.common.client_exceptions import QdrantException
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    failed = f"Qdrant at {where} could not {doing}"
    try:
        yield
    except UnexpectedResponse as error:
        raise _from_status(failed, error) from error
    except ResponseHandlingException as error:
        if _UNTRUSTED in str(error.source):
            raise VectorStoreError(
                f"{failed}: {_detail(error.source)}", hint=_CERTIFICATE_HINT
            ) from error
        if isinstance(error.source, TransportError):
            raise VectorStoreUnavailableError(
                f"{failed}: {_detail(error.source)}", hint=_RETRY_HINT
            ) from error
        raise VectorStoreError(
            f"{failed}: {_STRANGE} ({_detail(error.source)})", hint=_STRANGE_HINT
        ) from error
    except (json.JSONDecodeError, AssertionError) as error:  # the client asserts on null results
        raise VectorStoreError(
            f"{failed}: {_STRANGE} ({_detail(error)})", hint=_STRANGE_HINT
        ) from error
    except QdrantException as error:
        raise VectorStoreUnavailableError(
            f"{failed}: it asks for fewer requests ({_detail(error)})", hint="Try again later."
        ) from error
    except grpc.RpcError as error:
        raise _from_grpc(failed, error) from error
    except LOCAL_STORAGE_ERRORS as error:
        raise VectorStoreError(f"{failed}: {_detail(error)}", hint=_MISSING_HINT) from error


def retry_after_seconds(error: VectorStoreError) -> float | None:
    """How long the server asked to wait before the next request, if it did."""
    from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
    from qdrant_client.http.exceptions import UnexpectedResponse

    cause = error.__cause__
    if isinstance(cause, ResourceExhaustedResponse):
        return float(cause.retry_after_s)
    if isinstance(cause, UnexpectedResponse):
        try:
            return max(0.0, float(cause.headers.get("Retry-After", "")))
        except ValueError:
            return None  # a date, or nothing
    return None


def _from_status(failed: str, error: UnexpectedResponse) -> VectorStoreError:
    status = error.status_code or 0
    message = f"{failed}: HTTP {status}, {_server_message(error.content)}"
    if status in _TRANSIENT_STATUS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return VectorStoreUnavailableError(message, hint=_RETRY_HINT)
    if status in _FORBIDDEN_STATUS:
        return VectorStoreError(message, hint=_KEY_HINT)
    if status == HTTPStatus.NOT_FOUND:
        return VectorStoreError(message, hint=_MISSING_HINT)
    return VectorStoreError(message)


def _from_grpc(failed: str, error: grpc.RpcError) -> VectorStoreError:
    from grpc import Call, StatusCode

    if not isinstance(error, Call):
        return VectorStoreUnavailableError(f"{failed}: {_detail(error)}", hint=_RETRY_HINT)
    code = error.code()
    message = f"{failed}: gRPC {code.name}, {error.details()}"
    if code in (StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED):
        return VectorStoreError(message, hint=_KEY_HINT)
    if code is StatusCode.NOT_FOUND:
        return VectorStoreError(message, hint=_MISSING_HINT)
    if code in (StatusCode.INVALID_ARGUMENT, StatusCode.UNIMPLEMENTED, StatusCode.ALREADY_EXISTS):
        return VectorStoreError(message)
    return VectorStoreUnavailableError(message, hint=_RETRY_HINT)


def _server_message(content: bytes) -> str:
    """The `status.error` of Qdrant's JSON, or the start of whatever a proxy answered instead."""
    try:
        return str(json.loads(content)["status"]["error"])[:_LONGEST_DETAIL]
    except (ValueError, KeyError, TypeError):
        return repr(content[:_LONGEST_DETAIL].decode(errors="replace"))


def _detail(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:_LONGEST_DETAIL]
