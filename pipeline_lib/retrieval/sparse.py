"""BM25 term weights as sparse vectors, computed without a server.

`qdrant_edge.Bm25` gives the token ids and weights that a Qdrant server's own BM25 gives, so vectors
made here match queries made there. A vector holds the term-frequency part of BM25 (k1 = 1.2,
b = 0.75, average length 256); the inverse document frequency is Qdrant's part (`Modifier.IDF`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline_lib.errors import ConfigError

if TYPE_CHECKING:
    from qdrant_client.models import SparseVector
    from qdrant_edge import SparseVector as EdgeSparseVector


class Bm25Encoder:
    """Turns texts into BM25 vectors.

    Args:
        language: whose stemmer and stop words to use, for example "english".

    Raises:
        ConfigError: there is no such language.
    """

    def __init__(self, language: str) -> None:
        from qdrant_edge import Bm25, Bm25Config

        try:
            self._model = Bm25(Bm25Config(language=language))
        except ValueError as error:
            raise ConfigError(
                f"bm25_language {language!r} is not known: {error}",
                hint="Write a language in lower case, for example 'english', 'german', 'french'.",
            ) from error

    def encode_documents(self, texts: Sequence[str]) -> list[SparseVector]:
        """One vector per text; empty when the text holds stop words only."""
        return [_client_vector(self._model.embed_document(text)) for text in texts]

    def encode_queries(self, texts: Sequence[str]) -> list[SparseVector]:
        """One vector per query, weight 1 for each term; empty when it holds stop words only."""
        return [_client_vector(self._model.embed_query(text)) for text in texts]


def _client_vector(vector: EdgeSparseVector) -> SparseVector:
    """The client's own type; edge's has the same fields but another class."""
    from qdrant_client.models import SparseVector

    return SparseVector(indices=list(vector.indices), values=list(vector.values))
