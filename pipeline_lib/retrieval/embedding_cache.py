"""Vectors of passages, kept in S3 by what made them and by the hash of their text.

No text is ever embedded twice: not in another corpus or collection, nor under another name, nor on
another machine. Layout, below the store's prefix:

    _embeddings/<space>/space.json                 what the space is, for people
    _embeddings/<space>/<segment>.parquet          text_sha256, vector: one window of texts
    _embeddings/<space>/<segment>-<keys>.keys      its SHA-256s alone

A **space** is the hash of the model's identity and of its recipe for passages, which is the prompt
put before each text and the number format of the computation. Queries are not kept.

A **segment** is immutable and named by the hash of its bytes, so that writers never meet: two that
embed the same text at once leave it twice, which is harmless, and what is damaged does not fit its
name. Data goes first, keys last: a segment exists once its keys do. Looking texts up takes keys
only (32 bytes a vector instead of some 1,500); a segment is fetched when one of its vectors is
wanted. What was fetched stays on this machine as plain arrays, read by memory map.
"""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline_lib.artifacts.manifest import canonical_json
from pipeline_lib.artifacts.object_store import ObjectStore
from pipeline_lib.errors import ObjectNotFoundError
from pipeline_lib.retrieval.dense import FloatMatrix, TextEncoder
from pipeline_lib.retrieval.embedding_segments import (
    BadSegmentError,
    Hashes,
    SegmentName,
    decode_keys,
    decode_segment,
    encode_segment,
)

logger = logging.getLogger(__name__)

ROOT = "_embeddings"
SEGMENT_VECTORS = 4_096
"""Vectors that compaction puts into a segment; embedding writes one a window."""
SMALL_SEGMENTS = 64
"""How many segments of less than a quarter of that may stand before they are merged."""
_SPACE_LENGTH = 32
_OPEN_SEGMENTS = 32
_SPACE_FILE = "space.json"


def text_sha256(text: str) -> bytes:
    """The key of a text: SHA-256 of its UTF-8, without the prompt, which is the space's."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def space_of(encoder: TextEncoder) -> str:
    """The space of an encoder's passage vectors; may load the model."""
    identity = canonical_json([encoder.identity, encoder.document_recipe])
    return hashlib.sha256(identity).hexdigest()[:_SPACE_LENGTH]


@dataclass(frozen=True)
class _Index:
    """Where each text's vector lies: 16 bytes a vector, sorted by the first 8 of its hash."""

    prefixes: npt.NDArray[np.uint64]
    segments: npt.NDArray[np.uint32]
    rows: npt.NDArray[np.uint32]

    @classmethod
    def of(cls, tables: Sequence[npt.NDArray[np.uint64]]) -> _Index:
        sizes = [len(table) for table in tables]
        prefixes = np.concatenate([np.empty(0, np.uint64), *tables])
        segments = np.repeat(np.arange(len(tables), dtype=np.uint32), sizes)
        rows = np.concatenate(
            [np.empty(0, np.uint32), *(np.arange(n, dtype=np.uint32) for n in sizes)]
        )
        order = np.argsort(prefixes, kind="stable")
        return cls(prefixes[order], segments[order], rows[order])

    def find(self, prefixes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """For each prefix its position, or -1."""
        if not len(self.prefixes):
            return np.full(len(prefixes), -1)
        positions = np.searchsorted(self.prefixes, prefixes)
        inside = np.minimum(positions, len(self.prefixes) - 1)
        return np.where(self.prefixes[inside] == prefixes, inside, -1)


class EmbeddingCache:
    """The vectors of one space. Not to be used from two threads at once.

    Args:
        objects: the store that keeps them; `None` keeps them in `folder` only.
        folder: for what was fetched; safe to delete while nothing runs.
        space: of `space_of`.
        dimension: length of a vector.
    """

    def __init__(
        self, objects: ObjectStore | None, folder: Path, space: str, dimension: int
    ) -> None:
        self._objects = objects
        self._folder = folder / space
        self._folder.mkdir(parents=True, exist_ok=True)
        self._root = f"{ROOT}/{space}/"
        self._space = space
        self._dimension = dimension
        self._segments: dict[SegmentName, npt.NDArray[np.uint64]] = {}
        self._opened: OrderedDict[SegmentName, tuple[Hashes, FloatMatrix]] = OrderedDict()
        self._ignored: set[str] = set()
        self._gone: set[SegmentName] = set()
        self.refresh()

    @classmethod
    def open(
        cls, objects: ObjectStore | None, folder: Path, encoder: TextEncoder
    ) -> EmbeddingCache:
        """The cache of an encoder's passages; may load the model."""
        space, dimension = space_of(encoder), encoder.dimension
        if objects is not None and not objects.exists(f"{ROOT}/{space}/{_SPACE_FILE}"):
            note = {
                "model": encoder.identity,
                "recipe": encoder.document_recipe,
                "dimension": dimension,
            }
            objects.put_bytes(f"{ROOT}/{space}/{_SPACE_FILE}", canonical_json(note))
        return cls(objects, folder, space, dimension)

    @property
    def num_vectors(self) -> int:
        """Vectors there are; those of a text that two writers embedded count twice."""
        return len(self._index.rows)

    @property
    def num_segments(self) -> int:
        """Segments there are."""
        return len(self._segments)

    @property
    def num_ignored_segments(self) -> int:
        """Segments that are damaged or not ours; the log has named each."""
        return len(self._ignored)

    def refresh(self) -> None:
        """Look which segments others have written or merged since."""
        listed = [name for name in self._list() if name not in self._gone]
        segments: dict[SegmentName, npt.NDArray[np.uint64]] = {}
        for name in listed:
            prefixes = self._segments.get(name)
            if prefixes is None:
                prefixes = self._prefixes_of(name)
            if prefixes is not None:
                segments[name] = prefixes
        self._set_segments(segments)

    def contains(self, hashes: Sequence[bytes]) -> list[bool]:
        """For each text whether its vector is there, as far as the keys tell."""
        return [bool(position >= 0) for position in self._index.find(_prefixes(hashes))]

    def get(self, hashes: Sequence[bytes]) -> dict[bytes, FloatMatrix]:
        """Text hash to vector `[dimension]`, for those that are there and whole."""
        found: dict[bytes, FloatMatrix] = {}
        while True:
            lost = self._read([each for each in hashes if each not in found], found)
            if not lost:
                return found
            # Damaged, or merged into another segment meanwhile: the vectors may be elsewhere.
            self._gone.update(lost)
            self.refresh()

    def put(self, hashes: Sequence[bytes], vectors: FloatMatrix) -> None:
        """Keep vectors `[len(hashes), dimension]` of new texts, as one segment."""
        if hashes:
            name = self._write(hashes, vectors)
            self._set_segments({**self._segments, name: _prefixes(hashes)})

    def compact(self) -> int:
        """Merge small segments once there are many; returns how many were merged.

        They come from small changes of a corpus. Another process that still knows the old ones
        looks again when it finds them gone.
        """
        small = [name for name, rows in self._segments.items() if len(rows) < SEGMENT_VECTORS // 4]
        if len(small) <= SMALL_SEGMENTS:
            return 0
        merged: list[SegmentName] = []
        for group in self._groups(sorted(small)):
            vectors: dict[bytes, FloatMatrix] = {}
            for name in group:
                opened = self._open(name)
                if opened is not None:
                    hashes, matrix = opened
                    vectors.update(zip(map(bytes, hashes), matrix, strict=True))
                    merged.append(name)
            if vectors:
                self._write(list(vectors), np.stack(list(vectors.values())))
        self._delete(merged)
        self.refresh()
        return len(merged)

    def _groups(self, names: Sequence[SegmentName]) -> Iterator[list[SegmentName]]:
        group: list[SegmentName] = []
        size = 0
        for name in names:
            group.append(name)
            size += len(self._segments[name])
            if size >= SEGMENT_VECTORS:
                yield group
                group, size = [], 0
        if group:
            yield group

    def _set_segments(self, segments: dict[SegmentName, npt.NDArray[np.uint64]]) -> None:
        self._segments = segments
        self._names = list(segments)
        self._index = _Index.of(list(segments.values()))

    def _list(self) -> Iterator[SegmentName]:
        if self._objects is None:
            files = sorted(path.name for path in self._folder.glob("*.keys"))
        else:
            files = [info.key.removeprefix(self._root) for info in self._objects.scan(self._root)]
        for file in files:
            name = SegmentName.parse(file)
            if name is not None:
                yield name
            elif file != _SPACE_FILE and not file.endswith(".parquet"):
                self._ignore(file, "its name is not a segment's")

    def _prefixes_of(self, name: SegmentName) -> npt.NDArray[np.uint64] | None:
        local = self._folder / name.keys_file
        try:
            keys = local.read_bytes() if local.is_file() else self._fetch(name.keys_file)
            hashes = decode_keys(keys, name)
        except ObjectNotFoundError:
            return None  # merged since it was listed
        except BadSegmentError as error:
            local.unlink(missing_ok=True)
            self._ignore(name.keys_file, str(error))
            return None
        if not local.is_file():
            _write_atomically(local, keys)
        return _prefixes_of_table(hashes)

    def _read(self, hashes: Sequence[bytes], found: dict[bytes, FloatMatrix]) -> list[SegmentName]:
        """Add to `found`; the segments that turned out to be damaged or gone."""
        positions = self._index.find(_prefixes(hashes))
        places: dict[int, list[tuple[bytes, int]]] = {}
        for text_hash, position in zip(hashes, positions, strict=True):
            if position >= 0:
                place = places.setdefault(int(self._index.segments[position]), [])
                place.append((text_hash, int(self._index.rows[position])))
        lost: list[SegmentName] = []
        for segment, wanted in sorted(places.items()):
            opened = self._open(self._names[segment])
            if opened is None:
                lost.append(self._names[segment])
                continue
            keys, matrix = opened
            for text_hash, row in wanted:
                if keys[row].tobytes() == text_hash:
                    found[text_hash] = np.array(matrix[row])
        return lost

    def _open(self, name: SegmentName) -> tuple[Hashes, FloatMatrix] | None:
        """A segment's hashes and vectors; `None` when it is damaged or gone."""
        opened = self._opened.pop(name, None) or self._open_local(name) or self._open_remote(name)
        if opened is not None:
            self._opened[name] = opened
            if len(self._opened) > _OPEN_SEGMENTS:
                self._opened.popitem(last=False)
        return opened

    def _open_local(self, name: SegmentName) -> tuple[Hashes, FloatMatrix] | None:
        try:
            hashes = decode_keys((self._folder / name.keys_file).read_bytes(), name)
            matrix = np.load(self._folder / name.array_file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError, BadSegmentError):
            return None  # not here, or cut off by a full disk: fetched again
        whole = matrix.dtype == np.float32 and matrix.shape == (len(hashes), self._dimension)
        return (hashes, matrix) if whole else None

    def _open_remote(self, name: SegmentName) -> tuple[Hashes, FloatMatrix] | None:
        try:
            data = self._fetch(name.data_file)
            hashes, matrix = decode_segment(data, name, self._space, self._dimension)
        except ObjectNotFoundError:
            return None
        except BadSegmentError as error:
            self._ignore(name.data_file, str(error))
            return None
        self._save(name, hashes.tobytes(), matrix)
        return hashes, matrix

    def _fetch(self, file: str) -> bytes:
        if self._objects is None:
            raise ObjectNotFoundError(f"There is no {file} in {self._folder}")
        return self._objects.get_bytes(self._root + file)

    def _write(self, hashes: Sequence[bytes], vectors: FloatMatrix) -> SegmentName:
        name, data, keys = encode_segment(hashes, vectors, self._space)
        if self._objects is not None:
            self._objects.put_bytes(self._root + name.data_file, data)
            self._objects.put_bytes(self._root + name.keys_file, keys)
        self._save(name, keys, vectors)
        return name

    def _save(self, name: SegmentName, keys: bytes, vectors: FloatMatrix) -> None:
        unfinished = self._folder / f".{uuid.uuid4().hex}.npy"
        np.save(unfinished, np.ascontiguousarray(vectors, dtype=np.float32), allow_pickle=False)
        unfinished.replace(self._folder / name.array_file)
        _write_atomically(self._folder / name.keys_file, keys)

    def _delete(self, names: Sequence[SegmentName]) -> None:
        if self._objects is not None:
            # Keys first: without them a segment is no longer found.
            self._objects.delete(self._root + name.keys_file for name in names)
            self._objects.delete(self._root + name.data_file for name in names)
        for name in names:
            self._opened.pop(name, None)
            (self._folder / name.keys_file).unlink(missing_ok=True)
            (self._folder / name.array_file).unlink(missing_ok=True)

    def _ignore(self, file: str, reason: str) -> None:
        if file not in self._ignored:
            self._ignored.add(file)
            where = self._folder if self._objects is None else self._objects.uri(self._root)
            logger.warning("Ignoring %s in %s: %s", file, where, reason)


def _prefixes(hashes: Sequence[bytes]) -> npt.NDArray[np.uint64]:
    return np.frombuffer(b"".join(each[:8] for each in hashes), dtype=">u8").astype(np.uint64)


def _prefixes_of_table(hashes: Hashes) -> npt.NDArray[np.uint64]:
    return np.ascontiguousarray(hashes[:, :8]).view(">u8").reshape(-1).astype(np.uint64)


def _write_atomically(path: Path, data: bytes) -> None:
    unfinished = path.with_name(f".{uuid.uuid4().hex}.part")
    unfinished.write_bytes(data)
    unfinished.replace(path)
