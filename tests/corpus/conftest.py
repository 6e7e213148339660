"""Small tokenizers with known arithmetic, and a model folder around one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from pipeline_lib.corpus.documents import document_id
from pipeline_lib.corpus.schema import Document
from pipeline_lib.corpus.sources import PLAIN_TEXT, RawInput


def make_word_tokenizer() -> Tokenizer:
    """One token per word and per punctuation mark."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


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
    folder = tmp_path / "embedding-model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64}))
    make_word_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def make_document(
    text: str, media_type: str = PLAIN_TEXT, source_uri: str = "file:d/a.txt"
) -> Document:
    return Document(
        document_id=document_id(source_uri),
        source_uri=source_uri,
        title="A",
        media_type=media_type,
        text=text,
        content_sha256="",
    )


@pytest.fixture(scope="session")
def document() -> Callable[..., Document]:
    return make_document


@pytest.fixture
def raw_input() -> Callable[..., RawInput]:
    """An input of any name; the bytes are given to the parser separately."""

    def make(media_type: str, source_uri: str = "file:docs/page.x") -> RawInput:
        return RawInput(
            source_uri=source_uri, media_type=media_type, content_sha256="", load=lambda: b""
        )

    return make
