"""A client of the Qdrant server that the settings name."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.errors import ConfigError
from pipeline_lib.settings import Settings

if TYPE_CHECKING:
    from qdrant_client import QdrantClient


def connect(settings: Settings) -> QdrantClient:
    """A client for `settings.qdrant_url`; sends nothing yet.

    Raises:
        ConfigError: the address or the certificate file makes no sense.
    """
    from qdrant_client import QdrantClient

    key = settings.qdrant_api_key
    options: dict[str, Any] = {}
    if settings.qdrant_ca_file is not None:
        options["verify"] = _trusting(settings.qdrant_ca_file)
        options["grpc_options"] = {"root_certificates": settings.qdrant_ca_file.read_bytes()}
    try:
        return QdrantClient(
            url=settings.qdrant_url,
            api_key=key.get_secret_value() if key is not None else None,
            prefer_grpc=settings.qdrant_prefer_grpc,
            grpc_port=settings.qdrant_grpc_port,
            timeout=settings.qdrant_timeout_seconds,
            # The check runs in a thread of its own and can only warn; a version that does not
            # fit shows in the first call.
            check_compatibility=False,
            **options,
        )
    except ValueError as error:
        raise ConfigError(
            f"RAFTLINE_QDRANT_URL does not lead to a Qdrant server: {error}",
            hint="Write it like https://qdrant.example:6333, or unset it for local mode.",
        ) from error


def _trusting(ca_file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"RAFTLINE_QDRANT_CA_FILE is {ca_file}, which holds no certificates: {error}",
            hint="Give a PEM file of the authority that signed the server's certificate.",
        ) from error
