"""Segments of the embedding cache: their bytes, and names that vouch for them."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline_lib.retrieval.dense import FloatMatrix

HASH_BYTES = 32
Hashes = npt.NDArray[np.uint8]
"""SHA-256 digests `[n, 32]`."""

_SPACE_KEY = b"raftline_space"
_DATA_NAME_LENGTH = 32
_KEYS_NAME_LENGTH = 16
_KEYS_FILE = re.compile(
    rf"([0-9a-f]{{{_DATA_NAME_LENGTH}}})-([0-9a-f]{{{_KEYS_NAME_LENGTH}}})\.keys"
)


class BadSegmentError(Exception):
    """A segment is damaged, or of another space; the message says which."""


@dataclass(frozen=True, order=True)
class SegmentName:
    """Names a segment by the hashes of its two objects."""

    data_hash: str
    keys_hash: str

    @classmethod
    def parse(cls, file: str) -> SegmentName | None:
        """The segment whose keys lie in `file`, or `None` if that is no such name."""
        match = _KEYS_FILE.fullmatch(file)
        return None if match is None else cls(*match.groups())

    @property
    def data_file(self) -> str:
        """Parquet: text hashes and vectors."""
        return f"{self.data_hash}.parquet"

    @property
    def keys_file(self) -> str:
        """Text hashes alone."""
        return f"{self.data_hash}-{self.keys_hash}.keys"

    @property
    def array_file(self) -> str:
        """The vectors alone, as numpy keeps them; on this machine only."""
        return f"{self.data_hash}.npy"


def encode_segment(
    hashes: Sequence[bytes], vectors: FloatMatrix, space: str
) -> tuple[SegmentName, bytes, bytes]:
    """Name, parquet bytes and key bytes of a new segment."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    dimension = vectors.shape[1]
    schema = pa.schema(
        [
            ("text_sha256", pa.binary(HASH_BYTES)),
            ("vector", pa.list_(pa.float32(), dimension)),
        ],
        metadata={_SPACE_KEY: space.encode()},
    )
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
    columns = [
        pa.array(hashes, pa.binary(HASH_BYTES)),
        pa.FixedSizeListArray.from_arrays(flat, dimension),
    ]
    sink = io.BytesIO()
    # Neither compresses: hashes are random, and so are the low bits of floats.
    pq.write_table(pa.table(columns, schema=schema), sink, compression="none", use_dictionary=False)
    data, keys = sink.getvalue(), b"".join(hashes)
    return _name_of(data, keys), data, keys


def decode_segment(
    data: bytes, name: SegmentName, space: str, dimension: int
) -> tuple[Hashes, FloatMatrix]:
    """Hashes and vectors of a segment.

    Raises:
        BadSegmentError: the bytes are not those it was written with, or not of this space.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if _hash(data, _DATA_NAME_LENGTH) != name.data_hash:
        raise BadSegmentError("its bytes are not those it was named by")
    try:
        table = pq.read_table(io.BytesIO(data)).combine_chunks()
        if (table.schema.metadata or {}).get(_SPACE_KEY) != space.encode():
            raise BadSegmentError("it belongs to another model, prompt or number format")
        vectors = table.column("vector").combine_chunks()
        if vectors.type != pa.list_(pa.float32(), dimension):
            raise BadSegmentError(f"its vectors are {vectors.type}, not {dimension} floats")
        keys = b"".join(table.column("text_sha256").to_pylist())
    except (pa.ArrowException, KeyError, TypeError) as error:
        raise BadSegmentError(f"it cannot be read: {error}") from error
    matrix = vectors.flatten().to_numpy(zero_copy_only=False).reshape(-1, dimension)
    return _as_hashes(keys), matrix


def decode_keys(keys: bytes, name: SegmentName) -> Hashes:
    """The hashes of a segment's texts.

    Raises:
        BadSegmentError: the bytes are not those they were written with.
    """
    if len(keys) % HASH_BYTES or _hash(keys, _KEYS_NAME_LENGTH) != name.keys_hash:
        raise BadSegmentError("its bytes are not those it was named by")
    return _as_hashes(keys)


def _name_of(data: bytes, keys: bytes) -> SegmentName:
    return SegmentName(_hash(data, _DATA_NAME_LENGTH), _hash(keys, _KEYS_NAME_LENGTH))


def _hash(data: bytes, length: int) -> str:
    return hashlib.sha256(data).hexdigest()[:length]


def _as_hashes(keys: bytes) -> Hashes:
    return np.frombuffer(keys, dtype=np.uint8).reshape(-1, HASH_BYTES)
