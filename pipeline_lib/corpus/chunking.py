"""Documents to chunks, measured in the embedding model's tokens, with exact offsets.

semantic-text-splitter finds the cuts: sections, then paragraphs, sentences, words. Three things
are done here and not there:

- Overlap. With its own, the Markdown splitter of 0.33 can panic in Rust (an offset runs backwards).
  Pieces are therefore cut `overlap_tokens` short and extended backwards into their predecessor.
- Overlong words. WordPiece reads a word of more than 100 characters as one `[UNK]`, so a token
  limit alone lets a megabyte of base64 pass as one chunk. A chunk has at most 16 characters per
  token of the limit (English prose has 4 to 5).
- Identity. A chunk's id comes from its text, not from its position, so a chunk that an edit
  elsewhere left alone keeps its id, and its vector.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline_lib.config import ChunkConfig
from pipeline_lib.corpus.schema import Chunk, Document
from pipeline_lib.corpus.sources import HTML, MARKDOWN
from pipeline_lib.errors import ConfigError, ModelNotFoundError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CHUNK_NAMESPACE = uuid.UUID("64cb1595-19dc-5710-b6f7-e0f6f5b11b01")
"""Namespace of chunk ids; a change would rename every chunk in every corpus."""

MAX_CHARS_PER_TOKEN = 16
"""A chunk is at most this times `size_tokens` characters long."""

TOKENIZER_FILE = "tokenizer.json"
_WORD_START = re.compile(r"(?<!\S)\S")


class Span(NamedTuple):
    """`text[start:end]`, in code points."""

    start: int
    end: int


class Chunker:
    """Cuts documents into chunks of at most `config.size_tokens` tokens.

    Args:
        tokenizer: of the embedding model; it is copied, and the copy neither truncates nor pads.
        config: size and overlap.
    """

    def __init__(self, tokenizer: Tokenizer, config: ChunkConfig) -> None:
        from semantic_text_splitter import MarkdownSplitter, TextSplitter

        self._config = config
        self._tokenizer = type(tokenizer).from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._piece_tokens = config.size_tokens - config.overlap_tokens
        self._text_splitter: Any = TextSplitter.from_huggingface_tokenizer(
            self._tokenizer, self._piece_tokens
        )
        self._markdown_splitter: Any = MarkdownSplitter.from_huggingface_tokenizer(
            self._tokenizer, self._piece_tokens
        )

    def chunk(self, document: Document) -> list[Chunk]:
        """The document's chunks in order; together they hold all its text but whitespace.

        Raises:
            ConfigError: a single character has more tokens than `size_tokens`.
        """
        text = document.text
        is_markdown = document.media_type in (MARKDOWN, HTML)
        spans = list(self._pieces(text, is_markdown=is_markdown))
        if self._config.overlap_tokens:
            spans[1:] = [self._extended(text, *pair) for pair in pairwise(spans)]
        counts = self.count_tokens([text[start:end] for start, end in spans])
        seen: Counter[str] = Counter()
        chunks = []
        for ordinal, (span, num_tokens) in enumerate(zip(spans, counts, strict=True)):
            passage = text[span.start : span.end]
            if num_tokens > self._config.size_tokens:
                raise ConfigError(
                    f"chunking.size_tokens ({self._config.size_tokens}) is too small: "
                    f"{passage!r} in {document.source_uri} has {num_tokens} tokens"
                )
            content_sha256 = hashlib.sha256(passage.encode()).hexdigest()
            chunks.append(
                Chunk(
                    chunk_id=chunk_id(document.source_uri, content_sha256, seen[content_sha256]),
                    document_id=document.document_id,
                    ordinal=ordinal,
                    start=span.start,
                    end=span.end,
                    text=passage,
                    num_tokens=num_tokens,
                )
            )
            seen[content_sha256] += 1
        return chunks

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special tokens excluded."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [len(encoding) for encoding in encodings]

    def _pieces(self, text: str, *, is_markdown: bool) -> Iterator[Span]:
        splitter = self._markdown_splitter if is_markdown else self._text_splitter
        for start, piece in splitter.chunk_indices(text):
            if not piece.isspace():
                yield from self._fitting(text, Span(start, start + len(piece)))

    def _fitting(self, text: str, span: Span) -> Iterator[Span]:
        """The span, halved as often as it takes to fit."""
        start, end = span
        if end - start == 1 or self._fits(text[start:end], self._piece_tokens):
            yield span
            return
        middle = (start + end) // 2
        space = text.rfind(" ", start, middle)
        cut = space if space > (start + middle) // 2 else middle
        for half in (Span(start, cut), Span(cut, end)):
            trimmed = _trimmed(text, half)
            if trimmed.start < trimmed.end:
                yield from self._fitting(text, trimmed)

    def _fits(self, passage: str, limit_tokens: int) -> bool:
        if len(passage) > limit_tokens * MAX_CHARS_PER_TOKEN:
            return False
        return self.count_tokens([passage])[0] <= limit_tokens

    def _extended(self, text: str, before: Span, span: Span) -> Span:
        """`span` with up to `overlap_tokens` from the end of `before`, from a word's start on."""
        tail = text[before.start : span.start]
        encoding = self._tokenizer.encode(tail, add_special_tokens=False)
        first_shared = max(0, len(encoding) - self._config.overlap_tokens)
        if first_shared >= len(encoding):
            return span
        earliest = encoding.offsets[first_shared][0]
        starts: Sequence[int] = [m.start() for m in _WORD_START.finditer(tail, earliest)]
        for start in starts or range(earliest, len(tail.rstrip())):
            wider = text[before.start + start : span.end]
            # A cut inside a word, or a character of several tokens, may count differently alone.
            is_allowed = self._fits(tail[start:], self._config.overlap_tokens)
            if is_allowed and self._fits(wider, self._config.size_tokens):
                return Span(before.start + start, span.end)
        return span


def _trimmed(text: str, span: Span) -> Span:
    piece = text[span.start : span.end]
    start = span.start + len(piece) - len(piece.lstrip())
    return Span(start, max(start, span.start + len(piece.rstrip())))


def chunk_id(source_uri: str, content_sha256: str, occurrence: int) -> str:
    """UUID of a chunk; `occurrence` counts equal texts in one document, from 0."""
    return str(uuid.uuid5(CHUNK_NAMESPACE, f"{source_uri}\x00{content_sha256}\x00{occurrence}"))


def load_tokenizer(model_path: Path) -> Tokenizer:
    """The tokenizer of the model in the folder `model_path`.

    Raises:
        ModelNotFoundError: there is no `tokenizer.json`, or it cannot be read.
    """
    from tokenizers import Tokenizer

    file = model_path / TOKENIZER_FILE
    try:
        tokenizer: Tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:
        raise ModelNotFoundError(
            f"The embedding model in {model_path} has no usable {TOKENIZER_FILE}: {error}",
            hint="Save its tokenizer in the fast format (AutoTokenizer … save_pretrained).",
        ) from error
    return tokenizer


def check_fits_model(config: ChunkConfig, model_path: Path, tokenizer: Tokenizer) -> None:
    """Refuse chunks whose end the embedding model would silently cut off.

    Raises:
        ConfigError: `size_tokens` and the model's special tokens exceed its longest input.
    """
    longest = _longest_input(model_path)
    if longest is None:
        return
    limit = longest - tokenizer.num_special_tokens_to_add(False)
    if config.size_tokens > limit:
        raise ConfigError(
            f"chunking.size_tokens is {config.size_tokens}, but the embedding model in "
            f"{model_path} reads at most {limit} tokens: the rest of a chunk could not be found",
            hint=f"Set chunking.size_tokens to {limit} or less, or choose another embedding model.",
        )


def _longest_input(model_path: Path) -> int | None:
    """Longest input of a sentence-transformers folder, special tokens included, if it says so."""
    file = model_path / "sentence_bert_config.json"
    if not file.is_file():
        return None
    longest = json.loads(file.read_text(encoding="utf-8")).get("max_seq_length")
    return longest if isinstance(longest, int) else None
