"""Inputs in shards: each is parsed anywhere, and lies in S3 until the corpus is put together.

A shard's file holds one row per input (`PROCESSED_SCHEMA`). Its key is the hash of its inputs and
of what processing means, so a shard that was made before, by a run that was killed or on another
machine, is found and not made again.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline_lib.artifacts.manifest import canonical_json
from pipeline_lib.artifacts.partial import PartialWork
from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus.drops import DropReason, make_drop
from pipeline_lib.corpus.process import (
    PROCESS_TARGET,
    of_input,
    processor_options,
    read_answer,
)
from pipeline_lib.corpus.processed import (
    PROCESSED_SCHEMA,
    ProcessedInput,
    read_processed,
    to_table,
)
from pipeline_lib.corpus.sandbox import Crashed, Done, Outcome, OutOfMemory, SandboxPool, TimedOut
from pipeline_lib.corpus.schema import Drop
from pipeline_lib.corpus.snapshot import input_key
from pipeline_lib.corpus.sources.base import SourceInput
from pipeline_lib.corpus.sources.locators import source_input_to_json
from pipeline_lib.corpus.writing import TableWriter
from pipeline_lib.errors import ArtifactCorruptError
from pipeline_lib.settings import Settings

_FOLDER = "shards/"
_KEY_LENGTH = 32


@dataclass(frozen=True)
class Shard:
    """A run of the inputs, in the order of the scan."""

    key: str
    inputs: tuple[SourceInput, ...]

    @property
    def object_key(self) -> str:
        """Where its file lies in the artifact's partial work."""
        return f"{_FOLDER}{self.key}.parquet"


def cut_shards(
    inputs: Sequence[SourceInput], processing: str, *, max_inputs: int, max_bytes: int
) -> list[Shard]:
    """Cut the inputs into runs of at most `max_inputs` and `max_bytes` (but at least one input)."""
    shards: list[Shard] = []
    run: list[SourceInput] = []
    num_bytes = 0
    for item in inputs:
        if run and (len(run) == max_inputs or num_bytes + item.size_bytes > max_bytes):
            shards.append(_shard(run, processing))
            run, num_bytes = [], 0
        run.append(item)
        num_bytes += item.size_bytes
    if run:
        shards.append(_shard(run, processing))
    return shards


def _shard(run: Sequence[SourceInput], processing: str) -> Shard:
    identity = canonical_json([processing, [input_key(item) for item in run]])
    return Shard(hashlib.sha256(identity).hexdigest()[:_KEY_LENGTH], tuple(run))


def open_pool(
    settings: Settings, config: IngestConfig, tokenizer_folder: Path, *, num_workers: int
) -> SandboxPool:
    """The parser processes; they start with the first input."""
    return SandboxPool(
        PROCESS_TARGET,
        processor_options(settings, config, tokenizer_folder),
        num_workers=num_workers,
        max_seconds=config.limits.max_seconds,
        max_memory_bytes=config.limits.max_memory_bytes,
    )


def usable_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def prepared_shards(partial: PartialWork) -> set[str]:
    """Keys of the shards that are there already."""
    return {Path(key).stem for key in partial.keys(_FOLDER)}


def process_shard(
    partial: PartialWork,
    shard: Shard,
    pool: SandboxPool,
    *,
    scratch: Path,
    prepare: Callable[[SourceInput], None],
    on_input: Callable[[], None] = lambda: None,
) -> None:
    """Parse the shard's inputs and leave its file in the artifact's partial work.

    Args:
        partial: of the corpus that is being made.
        shard: which inputs.
        pool: the parser processes.
        scratch: an existing folder for the unfinished file.
        prepare: called with each input before its time begins: fetching and unpacking the archive
            that it is part of is not to count.
        on_input: called after each input.

    Raises:
        InputError: an input changed since the scan.
        StoreError: the source's store or the artifact store failed.
    """
    with tempfile.TemporaryDirectory(prefix="shard-", dir=scratch) as folder:
        file = Path(folder, "shard.parquet")
        payloads = _payloads(shard, prepare)
        with TableWriter(file, PROCESSED_SCHEMA) as writer:
            for item, outcome in pool.map(payloads):
                writer.write(_row(item, outcome))
                on_input()
        partial.put_file(shard.object_key, file)


def _payloads(
    shard: Shard, prepare: Callable[[SourceInput], None]
) -> Iterator[tuple[SourceInput, bytes]]:
    for item in shard.inputs:
        prepare(item)
        yield item, source_input_to_json(item)


def read_shard(partial: PartialWork, shard: Shard, scratch: Path) -> Iterator[ProcessedInput]:
    """What became of the shard's inputs, in their order; its local copy goes at the end.

    Raises:
        ArtifactCorruptError: the shard's file is not there, or not whole.
    """
    with tempfile.TemporaryDirectory(prefix="shard-", dir=scratch) as folder:
        file = Path(folder, "shard.parquet")
        is_there = partial.get_file(shard.object_key, file)
        num_rows = 0
        if is_there:
            for processed in read_processed(file):
                num_rows += 1
                yield processed
    if num_rows != len(shard.inputs):
        raise ArtifactCorruptError(
            f"The shard {shard.object_key} holds {num_rows} of {len(shard.inputs)} inputs",
            hint="Run ingest again: shards that are missing are made again.",
        )


def _row(item: SourceInput, outcome: Outcome) -> pa.Table:
    if isinstance(outcome, Done):
        return read_answer(outcome.data)
    return to_table(ProcessedInput((), (of_input(_casualty(item.uri, outcome), item),)))


def _casualty(uri: str, outcome: TimedOut | OutOfMemory | Crashed) -> Drop:
    if isinstance(outcome, TimedOut):
        detail = f"it took longer than {outcome.seconds:g} seconds"
        return make_drop(uri, DropReason.TIMED_OUT, detail)
    if isinstance(outcome, OutOfMemory):
        return make_drop(uri, DropReason.OUT_OF_MEMORY, "it took more memory than is allowed")
    return make_drop(uri, DropReason.PARSER_CRASHED, outcome.detail)
