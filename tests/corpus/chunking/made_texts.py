"""Words to be cut into chunks, and how."""

from __future__ import annotations

from pipeline_lib.config import ChunkConfig

CONFIGS = {
    "16": ChunkConfig(size_tokens=16),
    "16+5": ChunkConfig(size_tokens=16, overlap_tokens=5),
    "40+39": ChunkConfig(size_tokens=40, overlap_tokens=39),
}


def words(count: int, first: int = 0) -> str:
    """Numbered words, each a token of the tokenizer `words`."""
    return " ".join(f"w{number}" for number in range(first, first + count))
