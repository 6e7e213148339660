"""Which words of a passage are those of a query, as BM25 sees them."""

from __future__ import annotations

import unicodedata
from itertools import groupby

from pipeline_lib.retrieval.sparse import Bm25Encoder


def matching_words(query: str, text: str, bm25: Bm25Encoder) -> list[tuple[int, int]]:
    """Start and end in `text` of each word that shares a term with `query`, in order.

    Terms are compared by their BM25 token ids: stemmed, without case, stop words excluded. So these
    are the words that gave the passage its BM25 score. Scripts without spaces have no words: there
    BM25 knows whole runs of characters, and a match is the whole run.
    """
    [wanted] = bm25.encode_queries([query])
    terms = set(wanted.indices)
    spans = _words(text)
    words = sorted({text[start:end] for start, end in spans})
    encoded = zip(words, bm25.encode_queries(words), strict=True)
    matching = {word for word, vector in encoded if not terms.isdisjoint(vector.indices)}
    return [(start, end) for start, end in spans if text[start:end] in matching]


def _words(text: str) -> list[tuple[int, int]]:
    """Runs of letters, digits and the marks that belong to them."""
    spans, start = [], 0
    for is_word, characters in groupby(text, _belongs_to_word):
        end = start + len(list(characters))
        if is_word:
            spans.append((start, end))
        start = end
    return spans


def _belongs_to_word(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character).startswith("M")
