"""A hashing encoder, small corpora, local Qdrant folders, and Qdrant's REST API over real HTTP."""

from __future__ import annotations

import json
import re
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel, TypeAdapter
from qdrant_client import QdrantClient, models

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus.schema import (
    CHUNK_SCHEMA,
    CHUNKS_FILE,
    DOCUMENT_SCHEMA,
    DOCUMENTS_FILE,
    Chunk,
    Corpus,
    Document,
)
from pipeline_lib.settings import Settings
from pipeline_lib.stage import ArtifactDraft, Workspace, run_stage

DIMENSION = 32


class HashingEncoder:
    """Bag of hashed words, L2-normalised: texts that share words are close."""

    def __init__(self, identity: str = "hashing-1") -> None:
        self.identity = identity
        self.dimension = DIMENSION
        self.num_encoded = 0
        self.fail_after: int | None = None
        """Raises once this many texts were encoded, as a crash would."""

    def encode_documents(
        self, texts: Sequence[str], on_encoded: Callable[[int], None] | None = None
    ) -> np.ndarray:
        if self.fail_after is not None and self.num_encoded + len(texts) > self.fail_after:
            raise KeyboardInterrupt
        self.num_encoded += len(texts)
        if on_encoded is not None:
            on_encoded(len(texts))
        return self.encode_queries(texts)

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        vectors = np.full((len(texts), DIMENSION), 1e-3, dtype=np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()):
                vectors[row, zlib.crc32(word.encode()) % DIMENSION] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def build_corpus(texts: Sequence[str], title: str = "Title") -> Corpus:
    """One document per text, one chunk per document."""
    documents, chunks = [], []
    for number, text in enumerate(texts):
        uri = f"file:///{number}.txt"
        document_id = f"doc-{number}"
        documents.append(
            Document(
                document_id=document_id,
                source_uri=uri,
                title=f"{title} {number}",
                media_type="text/plain",
                text=text,
                content_sha256="0" * 64,
            )
        )
        chunks.append(
            Chunk(
                chunk_id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{uri}#{text}")),
                document_id=document_id,
                ordinal=0,
                start=0,
                end=len(text),
                text=text,
                num_tokens=len(text.split()),
            )
        )
    return Corpus(tuple(documents), tuple(chunks))


def publish_corpus(
    ws: Workspace, corpus: Corpus, name: str = "demo", config: IngestConfig | None = None
) -> ArtifactRef:
    """A corpus artifact, as the ingest stage would publish it."""

    def build(draft: ArtifactDraft) -> None:
        rows = [asdict(document) for document in corpus.documents]
        pq.write_table(
            pa.Table.from_pylist(rows, DOCUMENT_SCHEMA), draft.directory / DOCUMENTS_FILE
        )
        rows = [asdict(chunk) for chunk in corpus.chunks]
        pq.write_table(pa.Table.from_pylist(rows, CHUNK_SCHEMA), draft.directory / CHUNKS_FILE)

    mark = repr([(d.title, d.text) for d in corpus.documents])
    return run_stage(
        ws,
        kind="corpus",
        name=name,
        stage="ingest",
        stage_version=1,
        config=config or IngestConfig(),
        inputs={"content": mark},
        build=build,
    ).ref


@pytest.fixture
def encoder() -> HashingEncoder:
    return HashingEncoder()


@pytest.fixture
def local_settings(tmp_path: Path) -> Settings:
    """Qdrant's local mode in a folder of its own; short patience."""
    return Settings(home=tmp_path / "home", qdrant_url=None, qdrant_lock_timeout_seconds=0.5)


@dataclass
class RecordedProgress:
    """Keeps what it is told."""

    phases: list[tuple[str, int | None]] = field(default_factory=list)
    advanced: int = 0
    notes: list[str] = field(default_factory=list)

    def start(self, description: str, total: int | None, unit: str = "items") -> None:
        self.phases.append((description, total))

    def advance(self, count: int = 1) -> None:
        self.advanced += count

    def note(self, text: str) -> None:
        self.notes.append(text)

    def finish(self) -> None:
        pass


@pytest.fixture
def recorded_progress() -> RecordedProgress:
    return RecordedProgress()


@dataclass
class QdrantOverHttp:
    """The part of Qdrant's REST API that the store uses, answered by an in-memory client.

    `fault` makes every answer one of: an HTTP status, "drop" (the connection closes without an
    answer), "slow" (it comes after the client has given up), "html" (a proxy's page), "null".
    """

    client: QdrantClient = field(default_factory=lambda: QdrantClient(":memory:"))
    fault: int | str | None = None
    fault_headers: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    api_keys: set[str | None] = field(default_factory=set)
    bodies: list[Any] = field(default_factory=list)
    url: str = ""

    def answer(self, method: str, path: str, body: Any) -> Any:
        """What Qdrant puts under `result`."""
        _, *parts = path.partition("?")[0].strip("/").split("/")
        name = parts[0] if parts else ""
        match method, parts[1:]:
            case "POST", [] if name == "aliases":
                parsed = _parse(models.ChangeAliasesOperation, body)
                return self.client.update_collection_aliases(parsed.actions)
            case "GET", ["exists"]:
                return {"exists": self.client.collection_exists(name)}
            case "PUT", []:
                create = _parse(models.CreateCollection, body)
                return self.client.create_collection(
                    name,
                    vectors_config=create.vectors,
                    sparse_vectors_config=create.sparse_vectors,
                )
            case "PATCH", []:
                return self.client.update_collection(name, metadata=body["metadata"])
            case "GET", []:
                return self.client.get_collection(name)
            case "PUT", ["index"]:
                return {"operation_id": 1, "status": "completed"}
            case "PUT", ["points"]:
                return self.client.upsert(name, _parse(models.PointsList, body).points)
            case "POST", ["points"]:
                request = _parse(models.PointRequest, body)
                return self.client.retrieve(name, request.ids, with_payload=True)
            case "POST", ["points", "batch"]:
                operations = _parse(models.UpdateOperations, body).operations
                return self.client.batch_update_points(name, operations)
            case "POST", ["points", "delete"]:
                return self.client.delete(name, _parse(models.PointIdsList, body))
            case "POST", ["points", "count"]:
                return self.client.count(name)
            case "POST", ["points", "scroll"]:
                scroll = _parse(models.ScrollRequest, body)
                points, offset = self.client.scroll(
                    name,
                    limit=scroll.limit,
                    offset=scroll.offset,
                    with_payload=scroll.with_payload,
                )
                return {"points": points, "next_page_offset": offset}
            case "POST", ["points", "query", "batch"]:
                searches = _parse(models.QueryRequestBatch, body).searches
                return self.client.query_batch_points(name, searches)
        raise NotImplementedError(f"{method} {path}")


def _parse(kind: type[BaseModel], body: Any) -> Any:
    return TypeAdapter(kind).validate_python(body)


def _json_ready(result: Any) -> Any:
    if isinstance(result, BaseModel):
        return result.model_dump(mode="json")
    if isinstance(result, dict):
        return {key: _json_ready(value) for key, value in result.items()}
    return [_json_ready(item) for item in result] if isinstance(result, list) else result


@pytest.fixture
def qdrant_server() -> Iterator[QdrantOverHttp]:
    """Qdrant's REST API on loopback."""
    api = QdrantOverHttp()
    released = threading.Event()
    one_at_a_time = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"null")
            api.requests.append((self.command, self.path))
            api.bodies.append(body)
            api.api_keys.add(self.headers.get("api-key"))
            if api.fault == "drop":
                self.connection.close()
            elif api.fault == "slow":
                released.wait(10)
            elif api.fault == "html":
                self._send(200, b"<html>hello</html>")
            elif api.fault == "null":
                self._send(200, b'{"result": null, "status": "ok", "time": 0}')
            elif isinstance(api.fault, int):
                error = {"status": {"error": "told to fail"}, "result": None, "time": 0}
                self._send(api.fault, json.dumps(error).encode(), api.fault_headers)
            else:
                with one_at_a_time:
                    status, answer = self._answer(body)
                self._send(status, json.dumps(answer).encode())

        def _answer(self, body: Any) -> tuple[int, Any]:
            try:
                if self.path == "/aliases":
                    result: Any = api.client.get_aliases()
                else:
                    result = api.answer(self.command, self.path, body)
            except ValueError as error:
                return 404, {"status": {"error": str(error)}, "result": None, "time": 0}
            return 200, {"result": _json_ready(result), "status": "ok", "time": 0}

        def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_PATCH = _handle  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield api
    released.set()
    server.shutdown()
    thread.join()
    server.server_close()
    api.client.close()


@pytest.fixture
def server_settings(tmp_path: Path, qdrant_server: QdrantOverHttp) -> Settings:
    return Settings(home=tmp_path / "home", qdrant_url=qdrant_server.url)


@pytest.fixture
def make_corpus() -> Callable[..., Corpus]:
    return build_corpus


@pytest.fixture
def make_encoder() -> type[HashingEncoder]:
    return HashingEncoder


@pytest.fixture
def make_corpus_artifact() -> Callable[..., ArtifactRef]:
    return publish_corpus
