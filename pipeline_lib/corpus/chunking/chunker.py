"""Documents to chunks."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from pipeline_lib.config import ChunkConfig
from pipeline_lib.corpus.chunking.blocks import block_boundaries
from pipeline_lib.corpus.chunking.measure import MeasuredText, TokenMeasure
from pipeline_lib.corpus.chunking.packing import MAX_CHARS_PER_TOKEN, Packer
from pipeline_lib.corpus.chunking.sections import Outline, section_runs
from pipeline_lib.corpus.chunking.tokenizer import unbounded_copy
from pipeline_lib.corpus.media_types import SOURCE_CODE
from pipeline_lib.corpus.schema import Chunk, Document
from pipeline_lib.errors import ConfigError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CHUNK_NAMESPACE = uuid.UUID("64cb1595-19dc-5710-b6f7-e0f6f5b11b01")
"""Namespace of chunk ids; a change would rename every chunk in every corpus."""

_TINY_SECTION = 0.25
"""A section below this share of a chunk is put together with those after it."""
_COUNT_BATCH = 512
_WORD_START = re.compile(r"(?<!\S)\S")


@dataclass(frozen=True, slots=True)
class _Piece:
    """`text[start:end]`, without white space at its ends."""

    start: int
    end: int
    num_tokens: int
    """Counted exactly."""
    begins_stretch: bool
    """What stands before it belongs to another section: there is no overlap."""


class Chunker:
    """Cuts documents into chunks of at most `config.size_tokens` tokens.

    Args:
        tokenizer: of the embedding model; it is copied, and the copy neither truncates nor pads.
        config: size and overlap.
    """

    def __init__(self, tokenizer: Tokenizer, config: ChunkConfig) -> None:
        self._config = config
        self._measure = TokenMeasure(unbounded_copy(tokenizer))
        self._piece_tokens = config.size_tokens - config.overlap_tokens

    def chunk(self, document: Document) -> list[Chunk]:
        """The document's chunks in order; together they hold all its text but white space.

        Raises:
            ConfigError: a single character has more tokens than `size_tokens`.
        """
        text, outline = document.text, Outline(document.sections)
        seen: Counter[str] = Counter()
        chunks = []
        for ordinal, piece in enumerate(self._pieces(document)):
            passage = text[piece.start : piece.end]
            if piece.num_tokens > self._config.size_tokens:
                raise ConfigError(
                    f"chunking.size_tokens ({self._config.size_tokens}) is too small: "
                    f"{passage!r} in {document.source_uri} has {piece.num_tokens} tokens"
                )
            content_sha256 = hashlib.sha256(passage.encode()).hexdigest()
            chunks.append(
                Chunk(
                    chunk_id=chunk_id(document.source_uri, content_sha256, seen[content_sha256]),
                    document_id=document.document_id,
                    ordinal=ordinal,
                    start=piece.start,
                    end=piece.end,
                    text=passage,
                    num_tokens=piece.num_tokens,
                    heading_path=outline.heading_path(piece.start),
                    places=outline.places(piece.start, piece.end),
                )
            )
            seen[content_sha256] += 1
        return chunks

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special tokens excluded."""
        return self._measure.count(texts)

    def _pieces(self, document: Document) -> list[_Piece]:
        text = document.text
        measured = self._measure.measure(text)
        is_code = document.media_type == SOURCE_CODE
        blocks = block_boundaries(text, document.sections, is_code=is_code)
        packer = Packer(text, measured, blocks)
        stretches = section_runs(
            len(text),
            document.sections,
            tokens=measured.tokens,
            fits=lambda start, end: packer.fits(start, end, self._piece_tokens),
            min_tokens=int(self._config.size_tokens * _TINY_SECTION),
        )
        spans = [
            (left, right, left == start)
            for start, end in stretches
            for left, right in packer.pack(start, end, self._piece_tokens)
        ]
        pieces: list[_Piece] = []
        for first in range(0, len(spans), _COUNT_BATCH):
            pieces.extend(self._exact(text, packer, spans[first : first + _COUNT_BATCH]))
        if self._config.overlap_tokens:
            pieces[1:] = [self._extended(text, measured, *pair) for pair in pairwise(pieces)]
        return pieces

    def _exact(
        self, text: str, packer: Packer, spans: Sequence[tuple[int, int, bool]]
    ) -> Iterator[_Piece]:
        """Count the spans exactly; halve those that the measure took for smaller than they are."""
        pieces = [piece for span in spans if (piece := _trimmed(text, *span))]
        counts = self.count_tokens([text[piece.start : piece.end] for piece in pieces])
        for piece, num_tokens in zip(pieces, counts, strict=True):
            if num_tokens <= self._piece_tokens or piece.end - piece.start == 1:
                yield replace(piece, num_tokens=num_tokens)
                continue
            middle = packer.middle(piece.start, piece.end)
            halves = [
                (piece.start, middle, piece.begins_stretch),
                (middle, piece.end, False),
            ]
            yield from self._exact(text, packer, halves)

    def _extended(self, text: str, measured: MeasuredText, before: _Piece, piece: _Piece) -> _Piece:
        """`piece` with up to `overlap_tokens` from the end of `before`, from a word's start on."""
        if piece.begins_stretch:
            return piece
        overlap_tokens = self._config.overlap_tokens
        earliest = max(before.start, measured.reach_back(before.end, overlap_tokens))
        starts: Sequence[int] = [
            m.start() for m in _WORD_START.finditer(text, earliest, before.end)
        ]
        for start in starts or range(earliest, before.end):
            if piece.end - start > self._config.size_tokens * MAX_CHARS_PER_TOKEN:
                continue
            # A cut inside a word may count differently from what the measure says.
            shared, whole = self.count_tokens([text[start : before.end], text[start : piece.end]])
            if shared <= overlap_tokens and whole <= self._config.size_tokens:
                return replace(piece, start=start, num_tokens=whole)
        return piece


def _trimmed(text: str, start: int, end: int, begins_stretch: bool) -> _Piece | None:
    passage = text[start:end]
    start += len(passage) - len(passage.lstrip())
    end -= len(passage) - len(passage.rstrip())
    return _Piece(start, end, 0, begins_stretch) if start < end else None


def chunk_id(source_uri: str, content_sha256: str, occurrence: int) -> str:
    """UUID of a chunk; `occurrence` counts equal texts in one document, from 0."""
    uri = source_uri.encode("utf-8", "backslashreplace").decode()  # a file name may hold anything
    return str(uuid.uuid5(CHUNK_NAMESPACE, f"{uri}\x00{content_sha256}\x00{occurrence}"))
