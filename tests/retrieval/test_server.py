"""Server mode over real HTTP: requests that a server understands, errors that say what to do."""

from __future__ import annotations

import socket

import pytest
from pydantic import SecretStr

from pipeline_lib.errors import ConfigError, VectorStoreError, VectorStoreUnavailableError
from pipeline_lib.progress import NullProgress
from pipeline_lib.retrieval import store as store_module
from pipeline_lib.retrieval.schema import payloads_of
from pipeline_lib.retrieval.sparse import Bm25Encoder
from pipeline_lib.retrieval.store import VectorStore
from pipeline_lib.retrieval.sync import sync_collection
from pipeline_lib.settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")


def test_a_sync_over_http_fills_indexes_and_aliases(
    server_settings, qdrant_server, make_corpus, encoder
):
    payloads = payloads_of(make_corpus([f"passage number {n}" for n in range(5)]))
    report = sync_collection(
        lambda: VectorStore(server_settings, "test"),
        payloads,
        collection="demo__1",
        alias="demo",
        encoder=encoder,
        bm25=Bm25Encoder("english"),
        progress=NullProgress(),
        local_point_limit=1,
    )
    assert report.num_embedded == 5
    assert qdrant_server.client.count("demo").count == 5  # by its alias
    calls = qdrant_server.requests
    created = calls.index(("PUT", "/collections/demo__1"))
    indexed = calls.index(("PUT", "/collections/demo__1/index?wait=true"))
    written = calls.index(("PUT", "/collections/demo__1/points?wait=true"))
    assert created < indexed < written
    assert qdrant_server.bodies[indexed] == {
        "field_name": "document_id",
        "field_schema": "keyword",
    }
    with VectorStore(server_settings, "test") as store:
        assert store.content_mark("demo") == (report.points_sha256, 5)
        assert store.aliases() == {"demo": "demo__1"}
        assert store.payloads("demo", list(payloads)) == payloads


def test_the_api_key_is_sent_and_never_shown(server_settings: Settings, qdrant_server):
    secret = server_settings.model_copy(update={"qdrant_api_key": SecretStr("k-123456")})
    qdrant_server.fault = 403
    with VectorStore(secret, "test") as store, pytest.raises(VectorStoreError) as caught:
        store.exists("demo")
    assert qdrant_server.api_keys == {"k-123456"}
    assert "k-123456" not in str(caught.value)


def test_credentials_in_the_address_are_not_shown(server_settings: Settings):
    settings = server_settings.model_copy(update={"qdrant_url": "https://user:pw@host:6333/q"})
    assert VectorStore(settings, "test").location == "host:6333"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_overload_and_server_errors_are_transient(status: int, server_settings, qdrant_server):
    qdrant_server.fault = status
    with (
        VectorStore(server_settings, "test") as store,
        pytest.raises(VectorStoreUnavailableError, match=f"HTTP {status}, told to fail") as caught,
    ):
        store.exists("demo")
    assert caught.value.is_transient
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("retry_after", ["3", "soon"])
def test_a_server_that_says_when_to_come_back_is_transient(
    retry_after: str, server_settings, qdrant_server
):
    qdrant_server.fault = 429
    qdrant_server.fault_headers = {"Retry-After": retry_after}
    with (
        VectorStore(server_settings, "test") as store,
        pytest.raises(VectorStoreUnavailableError, match="asks for fewer requests"),
    ):
        store.exists("demo")


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_are_final_and_name_the_setting(
    status: int, server_settings, qdrant_server
):
    qdrant_server.fault = status
    with VectorStore(server_settings, "test") as store, pytest.raises(VectorStoreError) as caught:
        store.exists("demo")
    assert not caught.value.is_transient
    assert "RAFTLINE_QDRANT_API_KEY" in str(caught.value)


def test_a_bad_request_is_final_and_carries_the_servers_words(server_settings, qdrant_server):
    qdrant_server.fault = 400
    with VectorStore(server_settings, "test") as store, pytest.raises(VectorStoreError) as caught:
        store.create("demo", 4)
    assert not caught.value.is_transient
    assert "could not create demo: HTTP 400, told to fail" in caught.value.message


def test_a_missing_collection_is_final(server_settings):
    with VectorStore(server_settings, "test") as store, pytest.raises(VectorStoreError) as caught:
        store.digests("nothing")
    assert not caught.value.is_transient
    assert "HTTP 404" in caught.value.message


def test_a_dropped_connection_is_transient(server_settings, qdrant_server):
    qdrant_server.fault = "drop"
    with (
        VectorStore(server_settings, "test") as store,
        pytest.raises(VectorStoreUnavailableError, match="RemoteProtocolError"),
    ):
        store.exists("demo")


def test_a_server_that_is_not_there_is_transient(server_settings: Settings):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    settings = server_settings.model_copy(update={"qdrant_url": url})
    with (
        VectorStore(settings, "test") as store,
        pytest.raises(VectorStoreUnavailableError, match="ConnectError") as caught,
    ):
        store.exists("demo")
    assert "RAFTLINE_QDRANT_URL" in str(caught.value)


def test_a_slow_server_is_transient(
    server_settings, qdrant_server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(store_module, "REQUEST_TIMEOUT_SECONDS", 1)
    qdrant_server.fault = "slow"
    with (
        VectorStore(server_settings, "test") as store,
        pytest.raises(VectorStoreUnavailableError, match="ReadTimeout"),
    ):
        store.exists("demo")


@pytest.mark.parametrize("fault", ["html", "null"])
def test_an_answer_that_is_not_qdrants_is_final(fault: str, server_settings, qdrant_server):
    qdrant_server.fault = fault
    with VectorStore(server_settings, "test") as store, pytest.raises(VectorStoreError) as caught:
        store.exists("demo")
    assert not caught.value.is_transient
    assert "did not answer like Qdrant" in caught.value.message


def test_no_grpc_server_is_transient(server_settings: Settings):
    settings = server_settings.model_copy(update={"qdrant_prefer_grpc": True})
    with VectorStore(settings, "test") as store:
        store.upsert("demo", [])  # nothing to write makes no call
        with pytest.raises(VectorStoreUnavailableError, match="gRPC UNAVAILABLE"):
            store.digests("demo")


@pytest.mark.parametrize("url", ["ftp://host", "http://host:notaport"])
def test_an_address_that_makes_no_sense_is_a_configuration_error(url: str, server_settings):
    settings = server_settings.model_copy(update={"qdrant_url": url})
    with pytest.raises(ConfigError, match="RAFTLINE_QDRANT_URL"), VectorStore(settings, "test"):
        pass
