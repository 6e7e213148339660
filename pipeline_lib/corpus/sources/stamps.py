"""What earlier scans found, so that the next reads only what may have changed.

One compressed JSONL object per pipeline, `_state/ingest/<name>/stamps.jsonl.gz`. It is a cache:
without it, or with one that cannot be read, everything is read again and the result is the same.
Of two scans at once the later one's stamps stay, which costs time at most.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import tempfile
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline_lib.artifacts.manifest import canonical_json
from pipeline_lib.artifacts.object_store import ObjectStore
from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus.schema import Drop
from pipeline_lib.corpus.sources.base import Examined
from pipeline_lib.corpus.sources.locators import source_input_from_dict, source_input_to_dict
from pipeline_lib.errors import ObjectNotFoundError

logger = logging.getLogger(__name__)

_FORMAT = 1
"""Raised when equal files may give other inputs, or when the stamps are written differently."""
_INPUT, _DROP = "input", "drop"


@dataclass(frozen=True)
class Stamped:
    """What one file, object or page gave, and by which marks it was known."""

    stamp: str
    """Compared for equality: size and times of a file, ETag of an object, validators of a page."""
    found: tuple[Examined, ...]


class StampBook:
    """The stamps of the last scan, and those of the scan that is going on."""

    def __init__(self, objects: ObjectStore, name: str, config: IngestConfig) -> None:
        self._objects = objects
        self._key = f"_state/ingest/{name}/stamps.jsonl.gz"
        self._scope = _scope(config)
        # As JSON: a tenth of the memory of the objects.
        self._before = self._load()
        self._now: dict[str, bytes] = {}

    def get(self, uri: str) -> Stamped | None:
        """What the last scan, under the same limits, found at `uri`."""
        line = self._before.get(uri)
        if line is None:
            return None
        fields = json.loads(line)
        return Stamped(fields["stamp"], tuple(map(examined_from_dict, fields["found"])))

    def put(self, uri: str, stamp: str, found: Iterable[Examined]) -> None:
        """Remember what this scan found."""
        fields = {"uri": uri, "stamp": stamp, "found": [examined_to_dict(item) for item in found]}
        self._now[uri] = canonical_json(fields)

    def keep(self, uri: str) -> None:
        """Remember again what the last scan found."""
        self._now[uri] = self._before[uri]

    def save(self) -> None:
        """Write the stamps of this scan; those of sources that are no longer named go."""
        if self._now == self._before:
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "stamps.jsonl.gz")
            with gzip.open(path, "wb", compresslevel=3) as stream:
                stream.write(canonical_json({"format": _FORMAT, "scope": self._scope}) + b"\n")
                for line in self._now.values():
                    stream.write(line + b"\n")
            self._objects.put_file(self._key, path)

    def _load(self) -> dict[str, bytes]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "stamps.jsonl.gz")
            try:
                self._objects.get_file(self._key, path)
                with gzip.open(path) as stream:
                    if json.loads(stream.readline()) != {"format": _FORMAT, "scope": self._scope}:
                        return {}
                    return {json.loads(line)["uri"]: line.rstrip(b"\n") for line in stream}
            except ObjectNotFoundError:
                return {}
            except (OSError, EOFError, ValueError, KeyError, zlib.error):
                logger.warning("%s is damaged: reading all sources", self._objects.uri(self._key))
                return {}


def _scope(config: IngestConfig) -> str:
    """Hash of the settings on which it depends what a file gives."""
    parts = [config.limits.output_config(), config.records.output_config()]
    return hashlib.sha256(canonical_json(parts)).hexdigest()


def examined_to_dict(item: Examined) -> dict[str, Any]:
    """An input or a drop as a JSON object."""
    if isinstance(item, Drop):
        return {_DROP: asdict(item)}
    return {_INPUT: source_input_to_dict(item)}


def examined_from_dict(fields: dict[str, Any]) -> Examined:
    """What `examined_to_dict` described."""
    if _DROP in fields:
        return Drop(**fields[_DROP])
    return source_input_from_dict(fields[_INPUT])
