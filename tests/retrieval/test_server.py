"""Server mode over real HTTP: requests that a server understands, errors that say what to do."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from pydantic import SecretStr

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.artifacts.store import ArtifactStore
from pipeline_lib.config import RetrievalConfig, SearchFilter
from pipeline_lib.errors import ConfigError, VectorStoreError, VectorStoreUnavailableError
from pipeline_lib.progress import NullProgress
from pipeline_lib.retrieval import retry
from pipeline_lib.retrieval.embedding_cache import EmbeddingCache
from pipeline_lib.retrieval.layout import KEYWORD_FIELDS, CollectionLayout
from pipeline_lib.retrieval.schema import IndexRecord, Payloads, payloads_of
from pipeline_lib.retrieval.search import Searcher
from pipeline_lib.retrieval.sparse import Bm25Encoder
from pipeline_lib.retrieval.store import VectorStore
from pipeline_lib.retrieval.sync import SyncOptions, sync_collection
from pipeline_lib.settings import Settings
from pipeline_lib.stage import Workspace

pytestmark = pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")


FIRST = "demo__111111111111"
SECOND = "demo__222222222222"


def sync(settings: Settings, payloads: Payloads, encoder, collection=FIRST, **options):
    return sync_collection(
        lambda: VectorStore(settings, "test"),
        payloads,
        collection=collection,
        alias="demo",
        encoder=encoder,
        bm25=Bm25Encoder("english"),
        progress=NullProgress(),
        cache=EmbeddingCache.open(None, settings.embedding_cache, encoder),
        options=SyncOptions(local_point_limit=1, **options),
    )


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses between tries, which are not waited for."""
    paused: list[float] = []
    monkeypatch.setattr(retry, "_sleep", paused.append)
    return paused


@pytest.fixture
def patient_settings(server_settings: Settings, pauses: list[float]) -> Settings:
    """A server whose requests are repeated up to three times."""
    return server_settings.model_copy(update={"qdrant_max_retries": 3})


def test_a_sync_over_http_fills_indexes_and_aliases(
    server_settings, qdrant_server, make_corpus, encoder
):
    payloads = payloads_of(make_corpus([f"passage number {n}" for n in range(5)]))
    report = sync(server_settings, payloads, encoder, upload_batch=2)
    assert report.num_embedded == 5
    assert qdrant_server.client.count("demo").count == 5  # by its alias
    calls = qdrant_server.requests
    created = calls.index(("PUT", f"/collections/{FIRST}"))
    indexed = [n for n, (_, path) in enumerate(calls) if "/index?" in path]
    written = [n for n, (method, path) in enumerate(calls) if method == "PUT" and "points" in path]
    assert created < indexed[0] < indexed[-1] < written[0]
    assert [qdrant_server.bodies[n] for n in indexed] == [
        {"field_name": name, "field_schema": "keyword"} for name in sorted(KEYWORD_FIELDS)
    ]
    assert [calls[n][1].partition("wait=")[2] for n in written] == ["false", "false", "true"]
    with VectorStore(server_settings, "test") as store:
        assert store.content_mark("demo") == (report.points_sha256, 5)
        assert store.aliases() == {"demo": FIRST}
        assert store.payloads("demo", list(payloads)) == payloads


def test_a_later_sync_changes_what_differs_and_nothing_else(
    server_settings, qdrant_server, make_corpus, encoder
):
    sync(server_settings, payloads_of(make_corpus(["one", "two", "three"])), encoder)
    qdrant_server.requests.clear()
    payloads = payloads_of(make_corpus(["one", "two", "four"], title="Other"))
    report = sync(server_settings, payloads, encoder)
    assert (report.num_added, report.num_updated, report.num_deleted) == (1, 2, 1)
    changes = [
        path.removeprefix(f"/collections/{FIRST}/")
        for method, path in qdrant_server.requests
        if "wait=" in path and "index" not in path
    ]
    assert changes == ["points?wait=true", "points/batch?wait=true", "points/delete?wait=true"]


def test_a_large_collection_is_quantized_and_on_disk(
    server_settings, qdrant_server, make_corpus, encoder
):
    sync(
        server_settings,
        payloads_of(make_corpus(["one"])),
        encoder,
        layout=CollectionLayout(quantization="int8", on_disk=True),
        payload_indexes={"metadata.year": "integer"},
    )
    create = qdrant_server.bodies[qdrant_server.requests.index(("PUT", f"/collections/{FIRST}"))]
    assert create["on_disk_payload"] is True
    assert create["vectors"]["dense"] == {
        "size": 32,
        "distance": "Cosine",
        "on_disk": True,
        "quantization_config": {"scalar": {"type": "int8", "quantile": 0.99, "always_ram": True}},
    }
    assert {"field_name": "metadata.year", "field_schema": "integer"} in qdrant_server.bodies


def test_a_switch_is_one_request_that_deletes_and_creates_the_alias(
    server_settings, qdrant_server, make_corpus, encoder
):
    payloads = payloads_of(make_corpus(["one"]))
    sync(server_settings, payloads, encoder)
    qdrant_server.requests.clear()
    qdrant_server.bodies.clear()
    report = sync(server_settings, payloads, encoder, collection=SECOND, keep_previous=0)
    assert report.num_deleted_collections == 1
    switches = [
        n for n, call in enumerate(qdrant_server.requests) if call[1] == "/collections/aliases"
    ]
    assert [qdrant_server.bodies[n] for n in switches] == [
        {
            "actions": [
                {"delete_alias": {"alias_name": "demo"}},
                {"create_alias": {"collection_name": SECOND, "alias_name": "demo"}},
            ]
        }
    ]
    deleted = qdrant_server.requests.index(("DELETE", f"/collections/{FIRST}"))
    assert switches[0] < deleted


# The server behind the fake is local mode, which says that it does not quantize.
@pytest.mark.filterwarnings("ignore:Local mode performs exact")
@pytest.mark.parametrize(
    "config",
    [
        RetrievalConfig(),
        RetrievalConfig(fusion="rrf", mmr_lambda=0.5),
        RetrievalConfig(
            mode="dense",
            filters=(
                SearchFilter(field="language", values=("en",)),
                SearchFilter(field="metadata.year", operator="range", minimum=2000),
                SearchFilter(field="heading", operator="not", values=("Appendix", "7", "true")),
            ),
        ),
        RetrievalConfig(
            mode="sparse",
            filters=(SearchFilter(field="source_uri", operator="prefix", values=("file:",)),),
        ),
    ],
)
def test_searches_are_requests_that_qdrant_knows(
    config, server_settings, qdrant_server, make_corpus, encoder
):
    payloads = payloads_of(make_corpus([f"passage number {n}" for n in range(5)]))
    report = sync(server_settings, payloads, encoder)
    record = IndexRecord(
        collection=FIRST,
        alias="demo",
        embedding_model="fake",
        embedding_identity=encoder.identity,
        bm25_language="english",
        dimension=encoder.dimension,
        num_points=report.num_points,
        points_sha256=report.points_sha256,
        quantization="int8",
    )
    ws = Workspace(server_settings, ArtifactStore(server_settings), NullProgress())
    ref = ArtifactRef(kind="index", name="demo", fingerprint="0" * 32)
    qdrant_server.requests.clear()
    Searcher(ws, ref, record, encoder).search(["number"], limit=3, config=config)
    assert ("POST", f"/collections/{FIRST}/points/query/batch") in qdrant_server.requests
    # The fixture compares every request with Qdrant's published interface.


@pytest.mark.parametrize("fault", [408, 429, 500, 502, 503, 504, "drop"])
def test_what_passes_is_tried_again_with_growing_random_pauses(
    fault, patient_settings, qdrant_server, pauses
):
    qdrant_server.fault, qdrant_server.faults_left = fault, 2
    with VectorStore(patient_settings, "test") as store:
        assert not store.exists("demo")
    assert len(qdrant_server.requests) == 3
    assert len(pauses) == 2
    assert 0.25 <= pauses[0] <= 0.5 <= pauses[1] <= 1.0


@pytest.mark.parametrize("status", [429, 503])
def test_a_servers_retry_after_is_kept_to(status: int, patient_settings, qdrant_server, pauses):
    qdrant_server.fault, qdrant_server.faults_left = status, 1
    qdrant_server.fault_headers = {"Retry-After": "7"}
    with VectorStore(patient_settings, "test") as store:
        assert not store.exists("demo")
    assert pauses == [7.0]


def test_a_server_cannot_make_a_run_wait_for_hours(patient_settings, qdrant_server, pauses):
    qdrant_server.fault, qdrant_server.faults_left = 429, 1
    qdrant_server.fault_headers = {"Retry-After": "86400"}
    with VectorStore(patient_settings, "test") as store:
        store.exists("demo")
    assert pauses == [30.0]


def test_retries_end(patient_settings, qdrant_server, pauses):
    qdrant_server.fault = 503
    with (
        VectorStore(patient_settings, "test") as store,
        pytest.raises(VectorStoreUnavailableError, match="HTTP 503"),
    ):
        store.exists("demo")
    assert (len(qdrant_server.requests), len(pauses)) == (4, 3)


@pytest.mark.parametrize("status", [400, 403, 404, 422])
def test_what_will_not_pass_is_not_tried_again(
    status: int, patient_settings, qdrant_server, pauses
):
    qdrant_server.fault = status
    with VectorStore(patient_settings, "test") as store, pytest.raises(VectorStoreError):
        store.metadata("demo")
    assert (len(qdrant_server.requests), pauses) == (1, [])


def test_a_collection_whose_creation_was_answered_too_late_is_taken_as_it_is(
    server_settings, qdrant_server
):
    with VectorStore(server_settings, "test") as store:
        store.create(FIRST, 4)
        store.create(FIRST, 4)  # the server says 409
        assert store.dense_dimension(FIRST) == 4


@pytest.mark.parametrize("fault", [503, "drop"])
def test_a_server_that_goes_away_mid_load_leaves_nothing_in_use_and_the_next_run_ends_it(
    fault, server_settings, qdrant_server, make_corpus, encoder
):
    payloads = payloads_of(make_corpus([f"passage number {n}" for n in range(8)]))
    sync(server_settings, payloads, encoder, collection=FIRST)
    qdrant_server.requests.clear()
    qdrant_server.fault, qdrant_server.refuse_after = fault, 14
    with pytest.raises(VectorStoreUnavailableError, match=f"could not write to {SECOND}"):
        sync(server_settings, payloads, encoder, collection=SECOND, upload_batch=1)
    assert 0 < qdrant_server.client.count(SECOND).count < 8
    assert qdrant_server.client.count("demo").count == 8  # still the first

    qdrant_server.fault = None
    report = sync(server_settings, payloads, encoder, collection=SECOND, upload_batch=1)
    assert (report.num_embedded, report.num_points) == (0, 8)
    assert 0 < report.num_unchanged < 8
    with VectorStore(server_settings, "test") as store:
        assert store.aliases() == {"demo": SECOND}
    assert encoder.num_encoded == 8


def test_an_index_of_other_dimensions_is_refused(
    server_settings, qdrant_server, make_corpus, encoder
):
    with VectorStore(server_settings, "test") as store:
        store.create(FIRST, 768)
    with pytest.raises(VectorStoreError, match="dense vectors of length 768, but") as caught:
        sync(server_settings, payloads_of(make_corpus(["one"])), encoder)
    assert not caught.value.is_transient
    assert "Delete it" in str(caught.value)


def test_a_certificate_file_without_certificates_is_a_configuration_error(
    server_settings: Settings, tmp_path: Path
):
    (tmp_path / "ca.pem").write_text("nothing")
    for name in ("ca.pem", "missing.pem"):
        settings = server_settings.model_copy(update={"qdrant_ca_file": tmp_path / name})
        with (
            pytest.raises(ConfigError, match="RAFTLINE_QDRANT_CA_FILE"),
            VectorStore(settings, "test"),
        ):
            pass


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


def test_a_slow_server_is_transient(server_settings: Settings, qdrant_server):
    impatient = server_settings.model_copy(update={"qdrant_timeout_seconds": 1})
    qdrant_server.fault = "slow"
    with (
        VectorStore(impatient, "test") as store,
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
