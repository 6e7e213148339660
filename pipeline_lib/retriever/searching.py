"""Exact search in a whole corpus by one model after another; BM25 is the same for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline_lib.evaluation.retrieval.exact import Branches, ExactIndex
from pipeline_lib.progress import phase
from pipeline_lib.retrieval.dense import FloatMatrix, TextEncoder
from pipeline_lib.retrieval.embedder import Embedder, batched
from pipeline_lib.retrieval.index_job import open_cache
from pipeline_lib.retrieval.sparse import Bm25Encoder
from pipeline_lib.retriever.pairs import Passages
from pipeline_lib.stage import Workspace

_WINDOW = 2_048


@dataclass(frozen=True)
class Searched:
    """What one model found for some questions."""

    queries: FloatMatrix
    """The questions' vectors, `[questions, dimension]`, of unit length."""
    branches: list[Branches]


class CorpusSearch:
    """Searches all passages of a corpus, without Qdrant: what an index of it would return.

    Args:
        ws: live services; the embedding cache is theirs.
        passages: the corpus.
        bm25_language: of the index.
        depth: passages found per branch and question.
    """

    def __init__(self, ws: Workspace, passages: Passages, bm25_language: str, depth: int) -> None:
        self._ws = ws
        self._passages = passages
        self._bm25 = Bm25Encoder(bm25_language)
        self._sparse = self._bm25.encode_documents(passages.texts)
        self._depth = depth

    def vectors(self, encoder: TextEncoder, what: str) -> FloatMatrix:
        """The passages' vectors `[passages, dimension]`, of unit length.

        They are taken from the embedding cache where they are there, and put there where not: the
        index stage finds what was embedded here, and the other way round.
        """
        with phase(self._ws.progress, what, len(self._passages), "chunks") as progress:
            embedder = Embedder(encoder, open_cache(self._ws, encoder))
            windows = []
            for window in batched(self._passages.texts, _WINDOW):
                windows.append(embedder.vectors(window))
                progress.advance(len(window))
        return unit_rows(np.concatenate(windows))

    def search(
        self, vectors: FloatMatrix, encoder: TextEncoder, questions: Sequence[str]
    ) -> Searched:
        """Dense and BM25 search for every question.

        Args:
            vectors: the passages' under `encoder`.
            encoder: of the questions.
            questions: at least one.
        """
        queries = unit_rows(encoder.encode_queries(questions))
        index = ExactIndex(
            self._passages.chunk_ids, self._passages.document_ids, vectors, self._sparse
        )
        sparse = self._bm25.encode_queries(questions)
        return Searched(queries, index.search(queries, sparse, self._depth))


def unit_rows(matrix: FloatMatrix) -> FloatMatrix:
    """Rows divided by their length; a row of zeros stays."""
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    unit: FloatMatrix = matrix / np.maximum(norms, np.finfo(np.float32).tiny)
    return unit
