"""A hashing encoder, small corpora, local Qdrant folders, and Qdrant's REST API over real HTTP."""

from __future__ import annotations

import json
import os
import re
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, TypeAdapter
from qdrant_client import QdrantClient, models

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus.schema import Corpus, Document
from pipeline_lib.retrieval.search import Searcher
from pipeline_lib.settings import Settings
from pipeline_lib.stage import ArtifactDraft, Workspace
from tests.artifacts.made_artifacts import publish
from tests.corpus.made_corpora import make_chunk, write_corpus
from tests.http_serving import serving
from tests.retrieval.made_collection import TEXTS, open_searcher

DIMENSION = 32
OPENAPI = Path(__file__).parent / "openapi"


class HashingEncoder:
    """Bag of hashed words, L2-normalised: texts that share words are close."""

    def __init__(self, identity: str = "hashing-1") -> None:
        self.identity = identity
        self.document_recipe = "words"
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
        chunk_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{uri}#{text}"))
        chunks.append(make_chunk(chunk_id, text, document_id))
    return Corpus(tuple(documents), tuple(chunks))


def publish_corpus(
    ws: Workspace,
    corpus: Corpus,
    name: str = "demo",
    config: IngestConfig | None = None,
    details: dict[str, Any] | None = None,
) -> ArtifactRef:
    """A corpus artifact, as the ingest stage would publish it."""

    def build(draft: ArtifactDraft) -> None:
        write_corpus(draft.directory, corpus)
        draft.details.update(details or {})

    mark = repr([(d.title, d.text) for d in corpus.documents])
    return publish(
        ws,
        "corpus",
        build,
        name=name,
        config=config or IngestConfig(),
        inputs={"content": mark},
    ).ref


@pytest.fixture
def encoder() -> HashingEncoder:
    return HashingEncoder()


@pytest.fixture
def local_settings(tmp_path: Path) -> Settings:
    """Qdrant's local mode in a folder of its own; short patience."""
    return Settings(home=tmp_path / "home", qdrant_url=None, qdrant_lock_timeout_seconds=0.5)


@pytest.fixture
def corpus() -> Corpus:
    """Eight short passages about Python."""
    return build_corpus(TEXTS)


@pytest.fixture
def searcher(local_settings: Settings, corpus: Corpus, encoder: HashingEncoder) -> Searcher:
    return open_searcher(local_settings, corpus, encoder)


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


@dataclass(frozen=True)
class RequestRules:
    """Which requests Qdrant's interface allows; see `openapi/README.md`."""

    rules: dict[str, Any]
    published: dict[str, Any] | None

    @classmethod
    @cache
    def load(cls) -> RequestRules:
        rules = json.loads((OPENAPI / "qdrant-1.19.json").read_text())
        path = os.environ.get("RAFTLINE_QDRANT_OPENAPI")
        return cls(rules, json.loads(Path(path).read_text()) if path else None)

    def violations(self, method: str, target: str, body: Any) -> list[str]:
        """What is wrong with a request; nothing for a good one."""
        path, _, query = target.partition("?")
        for endpoint in self.rules["endpoints"]:
            pattern = endpoint["path"].replace("{collection_name}", "[^/]+")
            if endpoint["method"] == method and re.fullmatch(pattern, path):
                found = self._query_violations(endpoint, query)
                found += self._body_violations(endpoint.get("body"), body)
                found += self._published_violations(endpoint, body)
                return [f"{method} {target}: {text}" for text in found]
        return [f"{method} {target}: no such endpoint"]

    def _query_violations(self, endpoint: dict[str, Any], query: str) -> list[str]:
        found = []
        for name, value in parse_qsl(query, keep_blank_values=True):
            if name not in endpoint.get("query", []):
                found.append(f"no parameter {name}")
            else:
                found += _schema_errors(self.rules["query_parameters"][name], value)
        return found

    def _body_violations(self, name: str | None, body: Any) -> list[str]:
        if name is None:
            return [] if body is None else ["takes no body"]
        schema = {"$ref": f"#/$defs/{name}", "$defs": self.rules["$defs"]}
        return _schema_errors(schema, body)

    def _published_violations(self, endpoint: dict[str, Any], body: Any) -> list[str]:
        if self.published is None or "body" not in endpoint:
            return []
        operation = self.published["paths"][endpoint["path"]][endpoint["method"].lower()]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        return _schema_errors({**schema, "components": self.published["components"]}, body)


def _schema_errors(schema: dict[str, Any], value: Any) -> list[str]:
    return [error.message[:300] for error in Draft202012Validator(schema).iter_errors(value)]


@dataclass
class QdrantOverHttp:
    """The part of Qdrant's REST API that the store uses, answered by an in-memory client.

    `fault` makes every answer one of: an HTTP status, "drop" (the connection closes without an
    answer), "slow" (it comes after the client has given up), "html" (a proxy's page), "null".
    """

    client: QdrantClient = field(default_factory=lambda: QdrantClient(":memory:"))
    fault: int | str | None = None
    fault_headers: dict[str, str] = field(default_factory=dict)
    refuse_after: int | None = None
    """Every request after this many is met by `fault` too."""
    faults_left: int | None = None
    """The fault ends after this many requests."""
    rules: RequestRules = field(default_factory=lambda: RequestRules.load())
    violations: list[str] = field(default_factory=list)
    """Requests that Qdrant's published interface does not know."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    api_keys: set[str | None] = field(default_factory=set)
    bodies: list[Any] = field(default_factory=list)
    url: str = ""

    def next_fault(self) -> int | str | None:
        """What is wrong with the answer to the next request."""
        if self.refuse_after is not None and len(self.requests) <= self.refuse_after:
            return None
        if self.faults_left is not None:
            if not self.faults_left:
                return None
            self.faults_left -= 1
        return self.fault

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
            case "GET", [] if not name:
                return self.client.get_collections()
            case "DELETE", []:
                return self.client.delete_collection(name)
            case "PUT", []:
                create = _parse(models.CreateCollection, body)
                if self.client.collection_exists(name):
                    raise FileExistsError(name)
                return self.client.create_collection(
                    name,
                    vectors_config=create.vectors,
                    sparse_vectors_config=create.sparse_vectors,
                    metadata=body.get("metadata"),
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
                return self.client.retrieve(
                    name, request.ids, with_payload=True, with_vectors=request.with_vector or False
                )
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
            api.violations += api.rules.violations(self.command, self.path, body)
            fault = api.next_fault()
            if fault == "drop":
                self.connection.close()
            elif fault == "slow":
                released.wait(10)
            elif fault == "html":
                self._send(200, b"<html>hello</html>")
            elif fault == "null":
                self._send(200, b'{"result": null, "status": "ok", "time": 0}')
            elif isinstance(fault, int):
                error = {"status": {"error": "told to fail"}, "result": None, "time": 0}
                self._send(fault, json.dumps(error).encode(), api.fault_headers)
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
            except FileExistsError as error:
                message = f"Collection `{error}` already exists!"
                return 409, {"status": {"error": message}, "result": None, "time": 0}
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

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as api.url:
        yield api
        released.set()
    api.client.close()
    assert not api.violations


@pytest.fixture
def server_settings(tmp_path: Path, qdrant_server: QdrantOverHttp) -> Settings:
    """That server; a request that fails is not repeated."""
    return Settings(home=tmp_path / "home", qdrant_url=qdrant_server.url, qdrant_max_retries=0)


@pytest.fixture
def make_corpus() -> Callable[..., Corpus]:
    return build_corpus


@pytest.fixture
def make_encoder() -> type[HashingEncoder]:
    return HashingEncoder


@pytest.fixture
def make_corpus_artifact() -> Callable[..., ArtifactRef]:
    return publish_corpus
