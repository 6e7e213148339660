"""Small tokenizers with known arithmetic, and a model folder around one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from pipeline_lib.corpus.documents import document_id
from pipeline_lib.corpus.media_types import MARKDOWN, PLAIN_TEXT
from pipeline_lib.corpus.outline import assemble
from pipeline_lib.corpus.parsing.base import ParsedDocument, Segment
from pipeline_lib.corpus.schema import Document
from pipeline_lib.corpus.sources.base import SourceInput
from pipeline_lib.corpus.sources.locators import FileLocator
from tests.corpus.made_ingests import make_model_folder, make_word_tokenizer, parse_inline


def make_letter_tokenizer() -> Tokenizer:
    """As BERT: one token per ASCII letter, but a single [UNK] for a word over 100 characters.

    Like the file of all-MiniLM-L6-v2 it truncates and pads, and adds two special tokens.
    """
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = ["[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(
        models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100)
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    return tokenizer


def make_byte_tokenizer() -> Tokenizer:
    """As GPT-2 without merges: one token per UTF-8 byte, whitespace included."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: n for n, symbol in enumerate(symbols)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


@pytest.fixture(scope="session")
def tokenizers_by_name() -> dict[str, Tokenizer]:
    return {
        "words": make_word_tokenizer(),
        "letters": make_letter_tokenizer(),
        "bytes": make_byte_tokenizer(),
    }


@pytest.fixture
def word_tokenizer() -> Tokenizer:
    return make_word_tokenizer()


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A sentence-transformers folder that reads 64 tokens; its weights are never looked into."""
    return make_model_folder(tmp_path / "embedding-model")


def make_document(
    text: str, media_type: str = PLAIN_TEXT, source_uri: str = "file:d/a.txt"
) -> Document:
    """A document with the outline that `text` has; text that is clean already stays as it is."""
    parsed = ParsedDocument(
        source_uri=source_uri,
        media_type=media_type,
        segments=(Segment(text=text),),
        is_markdown=media_type == MARKDOWN,
    )
    assembled = assemble(parsed)
    return Document(
        document_id=document_id(source_uri),
        source_uri=source_uri,
        title="A",
        media_type=media_type,
        text=assembled.text,
        content_sha256=hashlib.sha256(assembled.text.encode()).hexdigest(),
        sections=assembled.sections,
    )


@pytest.fixture(scope="session")
def document() -> Callable[..., Document]:
    return make_document


def make_input(uri: str = "file:docs/page.x", data: bytes = b"", **fields: Any) -> SourceInput:
    """An input whose bytes are given to whoever parses it; its locator leads nowhere."""
    values = {
        "uri": uri,
        "locator": FileLocator(path="/nowhere"),
        "content_sha256": hashlib.sha256(data).hexdigest(),
        "size_bytes": len(data),
    }
    return SourceInput(**(values | fields))


@pytest.fixture(scope="session")
def source_input() -> Callable[..., SourceInput]:
    return make_input


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage parses in this process."""
    parse_inline(monkeypatch)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A text, a page of Markdown, and a file that is neither."""
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.txt").write_text("The first document says one thing.")
    (folder / "b.md").write_text("# Second\n\nThe second document says another thing.")
    (folder / "c.bin").write_bytes(b"\x00\x01\x02")
    return folder
