"""BM25 vectors: weights by hand, token ids that never change."""

from __future__ import annotations

import pytest

from pipeline_lib.errors import ConfigError
from pipeline_lib.retrieval.sparse import Bm25Encoder

K1, B, AVERAGE_LENGTH = 1.2, 0.75, 256
CAT, RUN = 1751422759, 243905464


def bm25_weight(frequency: int, length: int) -> float:
    """The term-frequency part of BM25 (Robertson and Zaragoza 2009, equation 3.15)."""
    return frequency * (K1 + 1) / (frequency + K1 * (1 - B + B * length / AVERAGE_LENGTH))


def test_document_weights_are_bm25_over_stemmed_words_without_stop_words():
    # Left after stop words and stemming: cat, sat, mat, cat, run.
    [vector] = Bm25Encoder("english").encode_documents(["The cat sat on the mat, cats running"])
    weights = dict(zip(vector.indices, vector.values, strict=True))
    assert len(weights) == 4
    assert weights[CAT] == pytest.approx(bm25_weight(2, 5), rel=1e-5)
    assert weights[RUN] == pytest.approx(bm25_weight(1, 5), rel=1e-5)


def test_query_terms_weigh_one_each_and_have_the_ids_of_documents():
    [vector] = Bm25Encoder("english").encode_queries(["Do cats run? Cats!"])
    assert dict(zip(vector.indices, vector.values, strict=True)) == {CAT: 1.0, RUN: 1.0}


def test_stop_words_alone_give_an_empty_vector():
    encoder = Bm25Encoder("english")
    for vector in (*encoder.encode_queries(["of the"]), *encoder.encode_documents(["of the", ""])):
        assert vector.indices == []
        assert vector.values == []


def test_the_language_decides_what_a_stop_word_is():
    [german] = Bm25Encoder("german").encode_queries(["der Hund"])
    [english] = Bm25Encoder("english").encode_queries(["der Hund"])
    assert (len(german.indices), len(english.indices)) == (1, 2)


def test_an_unknown_language_is_a_configuration_error():
    with pytest.raises(ConfigError, match="bm25_language 'klingon'"):
        Bm25Encoder("klingon")
