"""Small ingests: their configuration, their parser processes, and what they left."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from pipeline_lib.config import ChunkConfig, IngestConfig
from pipeline_lib.corpus import stage
from pipeline_lib.corpus.process import make_processor, processor_options
from pipeline_lib.corpus.sandbox import Done, Outcome
from pipeline_lib.settings import Settings
from pipeline_lib.stage import StageResult, Workspace

FILES = ("documents.parquet", "chunks.parquet", "drops.parquet", "duplicates.parquet")


def make_word_tokenizer() -> Tokenizer:
    """One token per word and per punctuation mark."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def make_model_folder(folder: Path) -> Path:
    """An embedding model that reads 64 tokens, as far as ingestion looks into it."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64}))
    make_word_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


class InlinePool:
    """Parses in this process: starting another takes seconds."""

    def __init__(self, process: Callable[[bytes], bytes]) -> None:
        self._process = process

    def __enter__(self) -> InlinePool:
        return self

    def __exit__(self, *error: object) -> None: ...

    def map(self, payloads: Iterable[tuple[Any, bytes]]) -> Iterator[tuple[Any, Outcome]]:
        for key, payload in payloads:
            yield key, Done(self._process(payload))


def config(docs: Path, model_folder: Path, **changes: object) -> IngestConfig:
    """Small chunks of a folder, cut in one process."""
    values: dict[str, object] = {
        "sources": (str(docs),),
        "embedding_model": str(model_folder),
        "chunking": ChunkConfig(size_tokens=32),
        "num_workers": 1,
    }
    return IngestConfig.model_validate(values | changes)


def hashes(ws: Workspace, result: StageResult) -> dict[str, str]:
    """Of what a corpus is, without how it came about."""
    files = {file.path: file.sha256 for file in ws.artifacts.manifest(result.ref).files}
    return {name: files[name] for name in FILES}


def rows(ws: Workspace, result: StageResult, name: str) -> list[dict[str, Any]]:
    """Of one of the corpus' tables."""
    return pq.read_table(ws.artifacts.directory(result.ref) / f"{name}.parquet").to_pylist()


def parsed(ws: Workspace, result: StageResult) -> int:
    """How many inputs were parsed, and not taken from the corpus before."""
    return int(ws.artifacts.manifest(result.ref).ledger["inputs_parsed"])


def parse_inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the stage parse in this process until the test ends."""

    def open_pool(
        settings: Settings, config: IngestConfig, tokenizer_folder: Path, *, num_workers: int
    ) -> InlinePool:
        assert num_workers >= 1
        return InlinePool(make_processor(processor_options(settings, config, tokenizer_folder)))

    monkeypatch.setattr(stage, "open_pool", open_pool)
