"""One input from bytes to chunks, in a process that may die of it: the sandbox's target.

    read (hash verified) -> parse -> redact -> clean and outline -> filter -> chunk

Here is also decided what `processing` is: the hash of everything beside an input itself that shapes
its documents. While it stays the same, the documents of an unchanged input are taken over.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline_lib import errors
from pipeline_lib.artifacts.manifest import canonical_json
from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus.drops import DropReason, RefusedInputError, make_drop
from pipeline_lib.corpus.processed import ProcessedDocument, ProcessedInput, to_table
from pipeline_lib.corpus.schema import Drop
from pipeline_lib.corpus.sources.base import SourceInput
from pipeline_lib.errors import RaftlineError
from pipeline_lib.settings import Settings

if TYPE_CHECKING:
    from pipeline_lib.corpus.chunking import Chunker

PROCESS_TARGET = f"{__name__}:make_processor"
PROCESS_VERSION = 2
"""Raised when the same input may give other documents."""

_NOT_PROCESSING = frozenset({"embedding_model", "web", "deduplication", "max_dropped_fraction"})
"""Parts of `IngestConfig` that act before or after an input is processed."""
_LIBRARIES = (
    "charset-normalizer",
    "lxml",
    "markdown-it-py",
    "openpyxl",
    "py3langid",
    "pyarrow",
    "pypdf",
    "pypdfium2",
    "python-docx",
    "python-pptx",
    "resiliparse",
    "tokenizers",
    "trafilatura",
)
_SETTINGS_OF_SOURCES = ("home", "s3_", "source_s3_")
"""What reading an input may need; the keys of other services stay out of parser processes."""
_TABLE, _ERROR = b"T", b"E"


def processing_key(config: IngestConfig, tokenizer: str) -> str:
    """Hash of what shapes the documents of an input: configuration, code, libraries, tokenizer.

    Args:
        config: the stage's.
        tokenizer: its identity.
    """
    parts = {key: v for key, v in config.output_config().items() if key not in _NOT_PROCESSING}
    identity = [PROCESS_VERSION, parts, parsing_libraries(), tokenizer]
    return hashlib.sha256(canonical_json(identity)).hexdigest()


@cache
def parsing_libraries() -> dict[str, str]:
    """Versions of the libraries and loaders that turn bytes into text, as far as installed."""
    from importlib.metadata import PackageNotFoundError, entry_points, version

    versions = {}
    for library in _LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    for loader in entry_points(group="raftline.loaders"):
        versions[f"loader {loader.name}"] = loader.dist.version if loader.dist else ""
    return versions


def processor_options(settings: Settings, config: IngestConfig, tokenizer_folder: Path) -> bytes:
    """The argument of `make_processor`. Holds the credentials of sources: for pipes, not files."""
    chosen = {
        name: _revealed(value)
        for name, value in settings
        if name.startswith(_SETTINGS_OF_SOURCES) and value is not None
    }
    options = {
        "config": config.model_dump(mode="json"),
        "tokenizer_folder": str(tokenizer_folder),
        "settings": chosen,
    }
    return canonical_json(options)


def make_processor(argument: bytes) -> Callable[[bytes], bytes]:
    """The function that a parser process runs: a `SourceInput` as JSON in, an answer out.

    The answer is read by `read_answer`.
    """
    from pipeline_lib.artifacts.object_store import ObjectStore
    from pipeline_lib.corpus.chunking import Chunker, load_tokenizer
    from pipeline_lib.corpus.sources.locators import source_input_from_json
    from pipeline_lib.corpus.sources.reading import InputReader

    options = json.loads(argument)
    config = IngestConfig.model_validate(options["config"])
    settings = Settings(**options["settings"])
    reader = InputReader(settings, ObjectStore(settings))
    chunker = Chunker(load_tokenizer(Path(options["tokenizer_folder"])), config.chunking)

    def process(payload: bytes) -> bytes:
        item = source_input_from_json(payload)
        try:
            return _TABLE + _ipc(to_table(process_input(item, reader.read, config, chunker)))
        except RaftlineError as error:
            told = {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
            return _ERROR + canonical_json(told)

    return process


def read_answer(answer: bytes) -> pa.Table:
    """The row (of `PROCESSED_SCHEMA`) that a parser process answered with.

    Raises:
        RaftlineError: what the parser process met that no drop can stand for: an input that
            changed since the scan, a store that cannot be reached.
    """
    kind, body = answer[:1], memoryview(answer)[1:]
    if kind == _TABLE:
        with pa.ipc.open_stream(pa.py_buffer(body)) as stream:
            return stream.read_all()
    told = json.loads(bytes(body))
    raise getattr(errors, told["kind"])(told["message"], hint=told["hint"])


def process_input(
    item: SourceInput,
    read: Callable[[SourceInput], bytes],
    config: IngestConfig,
    chunker: Chunker,
) -> ProcessedInput:
    """The documents in one input with their chunks, and what was dropped of it.

    Raises:
        InputError: the input changed since the scan.
        StoreError: the store that holds it failed.
    """
    from pipeline_lib.corpus.documents import build_document
    from pipeline_lib.corpus.parsing.registry import parse

    documents: list[ProcessedDocument] = []
    drops: list[Drop] = []
    try:
        for parsed in parse(item, read(item), config):
            if isinstance(parsed, Drop):
                drops.append(parsed)
                continue
            built = build_document(parsed, item, config.filters, ordinal=len(documents))
            if isinstance(built, Drop):
                drops.append(built)
            else:
                documents.append(ProcessedDocument(built, tuple(chunker.chunk(built))))
    except RefusedInputError as refusal:
        drops.append(refusal.to_drop(item.uri))
    if not documents and not drops:
        drops.append(make_drop(item.uri, DropReason.EMPTY, "no document was found in it"))
    return ProcessedInput(tuple(documents), tuple(of_input(drop, item) for drop in drops))


def of_input(drop: Drop, item: SourceInput) -> Drop:
    """The drop, with the input it was found in."""
    return replace(drop, input_uri=item.uri)


def _ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def _revealed(value: Any) -> Any:
    reveal = getattr(value, "get_secret_value", None)
    return reveal() if reveal else str(value) if isinstance(value, Path) else value
