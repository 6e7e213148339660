"""Chunkers of every kind."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from pipeline_lib.corpus.chunking import Chunker
from tests.corpus.chunking.made_texts import CONFIGS


@pytest.fixture(scope="module")
def chunkers(tokenizers_by_name: dict[str, Tokenizer]) -> dict[tuple[str, str], Chunker]:
    """Every tokenizer with every configuration."""
    return {
        (kind, name): Chunker(tokenizer, config)
        for kind, tokenizer in tokenizers_by_name.items()
        for name, config in CONFIGS.items()
    }
