"""Groups of completions as objects: what a segment is called, and how it is written and read.

A segment is gzipped JSON lines, one completion or score a line, in the order of their keys, so
that equal content gives equal bytes. Its name is the SHA-256 of its bytes: one that is damaged
does not fit its name.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import fields

from pipeline_lib.generation.base import Completion, GenerationParams, Prompt, Score

Result = Completion | Score
"""What a teacher's work gives."""

_SEGMENT_NAME = re.compile("[0-9a-f]{64}[.]jsonl[.]gz")
_COMPRESSION = 6
_KEY_LENGTH = 64
_FIELDS: dict[type, tuple[str, ...]] = {
    kind: tuple(field.name for field in fields(kind))
    for kind in (Prompt, GenerationParams, Completion)
}


class BadSegmentError(Exception):
    """A segment's bytes are not what its name promises."""


def completion_key(identity: str, prompt: Prompt, params: GenerationParams) -> str:
    """What a completion is kept under: SHA-256, as hex, of canonical JSON.

    It covers the model, the messages or the text, the forced first words, the seed and every other
    parameter, and nothing else: equal prompts share a completion wherever they come from.
    """
    return _hash({"model": identity, "prompt": _fields(prompt), "params": _fields(params)})


def score_key(identity: str, prompt: Prompt, target: str) -> str:
    """What the score of a target after a prompt is kept under."""
    return _hash({"model": identity, "prompt": _fields(prompt), "target": target})


def is_segment(name: str) -> bool:
    """Whether an object's name is one of a segment."""
    return _SEGMENT_NAME.fullmatch(name) is not None


def encode_result(result: Result) -> bytes:
    """A completion or score as JSON."""
    if isinstance(result, Completion):
        return _json(_fields(result))
    return _json({"sum_nll": result.sum_nll, "num_tokens": result.num_tokens})


def decode_result(data: bytes) -> Result:
    """The opposite of `encode_result`; fields that only a later version knows are left out.

    Raises:
        BadSegmentError: it is neither a completion nor a score.
    """
    try:
        values = json.loads(data)
        if "sum_nll" in values:
            return Score(float(values["sum_nll"]), int(values["num_tokens"]))
        known = {name: values[name] for name in _FIELDS[Completion] if name in values}
        return Completion(**known)
    except (ValueError, TypeError, KeyError) as error:
        raise BadSegmentError(f"{data[:80]!r} is neither a completion nor a score") from error


def encode_segment(items: Mapping[str, bytes]) -> tuple[str, bytes]:
    """Name and bytes of the segment that holds encoded results by key."""
    lines = [b'{"key":"%s","result":%s}\n' % (key.encode(), items[key]) for key in sorted(items)]
    data = gzip.compress(b"".join(lines), _COMPRESSION, mtime=0)
    return f"{hashlib.sha256(data).hexdigest()}.jsonl.gz", data


def decode_segment(name: str, data: bytes) -> dict[str, bytes]:
    """Encoded results by key.

    Raises:
        BadSegmentError: the bytes do not fit the name, or are no segment's.
    """
    if not name.startswith(hashlib.sha256(data).hexdigest()):
        raise BadSegmentError("its content does not fit its name")
    items: dict[str, bytes] = {}
    try:
        for line in gzip.decompress(data).splitlines():
            entry = json.loads(line)
            items[str(entry["key"])] = _json(entry["result"])
    except (OSError, EOFError, zlib.error, ValueError, TypeError, KeyError) as error:
        raise BadSegmentError(f"it is not a segment: {error}") from error
    if any(len(key) != _KEY_LENGTH for key in items):
        raise BadSegmentError("its keys are not SHA-256 hashes")
    return items


def _fields(value: Prompt | GenerationParams | Completion) -> dict[str, object]:
    """As `asdict`, which copies what is in the fields too, at ten times the cost."""
    return {name: getattr(value, name) for name in _FIELDS[type(value)]}


def _hash(value: object) -> str:
    return hashlib.sha256(_json(value)).hexdigest()


def _json(value: object) -> bytes:
    """Canonical JSON; escapes everything beyond ASCII, so that lone surrogates survive."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
