"""A Qdrant server behind TLS, whose certificate no system knows."""

from __future__ import annotations

import ipaddress
import json
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr

from pipeline_lib.errors import VectorStoreError
from pipeline_lib.retrieval.store import VectorStore
from pipeline_lib.settings import Settings
from tests.http_serving import serving


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificate and key of 127.0.0.1, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def https_url(certificate: Path) -> Iterator[str]:
    """A server that says of every collection that it is there."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = json.dumps({"result": {"exists": True}, "status": "ok", "time": 0}).encode()
            self.send_response(200 if self.headers.get("api-key") == "k-123" else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that hangs up on our certificate

    server = Server(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with serving(server):
        yield f"https://127.0.0.1:{server.server_port}"


@pytest.fixture
def settings_for(tmp_path: Path, https_url: str) -> Settings:
    return Settings(
        home=tmp_path,
        qdrant_url=https_url,
        qdrant_api_key=SecretStr("k-123"),
        qdrant_max_retries=0,
    )


def test_a_server_is_trusted_by_the_certificates_in_the_settings(
    settings_for: Settings, certificate: Path
):
    trusting = settings_for.model_copy(update={"qdrant_ca_file": certificate})
    with VectorStore(trusting, "test") as store:
        assert store.exists("demo")


def test_a_server_with_an_unknown_certificate_gets_no_request(settings_for: Settings):
    with (
        VectorStore(settings_for, "test") as store,
        pytest.raises(VectorStoreError, match="CERTIFICATE_VERIFY_FAILED") as caught,
    ):
        store.exists("demo")
    assert not caught.value.is_transient
    assert "RAFTLINE_QDRANT_CA_FILE" in str(caught.value)
