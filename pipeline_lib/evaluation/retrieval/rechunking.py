"""A corpus cut another way and searched in memory, to see what another chunk size would find.

Documents come from the corpus artifact, cleaned and deduplicated as they are, so that nothing but
the chunks differs. Vectors go through the embedding cache: a second sweep, and the index of the
setting that is chosen, find them there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline_lib.config import ChunkConfig
from pipeline_lib.corpus.chunking import Chunker, check_fits_model, load_tokenizer
from pipeline_lib.errors import ConfigError
from pipeline_lib.evaluation.retrieval.corpus_view import CorpusView
from pipeline_lib.evaluation.retrieval.exact import Branches, ExactIndex
from pipeline_lib.evaluation.retrieval.gold import ChunkPlace
from pipeline_lib.retrieval.dense import FloatMatrix, TextEncoder
from pipeline_lib.retrieval.sparse import Bm25Encoder

EmbedPassages = Callable[[Sequence[str]], FloatMatrix]


@dataclass(frozen=True)
class Recut:
    """A corpus cut by other settings, and what its chunks answer."""

    chunks: tuple[ChunkPlace, ...]
    num_tokens: Mapping[str, int]
    branches: Mapping[str, Branches]
    """By query id."""


class Recutter:
    """Cuts one corpus in several ways and asks each the same queries.

    Args:
        corpus: whose documents.
        queries: query id to text.
        model_path: folder of the embedding model, whose tokenizer measures chunks.
        encoder: makes the queries' dense vectors.
        embed: makes the passages' dense vectors.
        bm25: makes sparse vectors.
        max_chunks: most chunks to hold in memory.
    """

    def __init__(
        self,
        corpus: CorpusView,
        queries: Mapping[str, str],
        *,
        model_path: Path,
        encoder: TextEncoder,
        embed: EmbedPassages,
        bm25: Bm25Encoder,
        max_chunks: int,
    ) -> None:
        self._corpus = corpus
        self._queries = list(queries)
        self._model_path = model_path
        self._tokenizer = load_tokenizer(model_path)
        self._embed = embed
        self._bm25 = bm25
        self._max_chunks = max_chunks
        texts = list(queries.values())
        self._dense_queries = encoder.encode_queries(texts)
        self._sparse_queries = bm25.encode_queries(texts)

    def recut(self, config: ChunkConfig, limit: int) -> Recut:
        """Cut by `config` and search, `limit` chunks a branch.

        Raises:
            ConfigError: the model does not read chunks that long, or they are too many to hold.
        """
        check_fits_model(config, self._model_path, self._tokenizer)
        chunker = Chunker(self._tokenizer, config)
        places: list[ChunkPlace] = []
        texts: list[str] = []
        num_tokens: dict[str, int] = {}
        for document in self._corpus.read_documents():
            for chunk in chunker.chunk(document):
                place = ChunkPlace(chunk.chunk_id, chunk.document_id, chunk.start, chunk.end)
                places.append(place)
                texts.append(chunk.text)
                num_tokens[chunk.chunk_id] = chunk.num_tokens
            if len(places) > self._max_chunks:
                raise ConfigError(
                    f"Chunks of {config.size_tokens} tokens are more than {self._max_chunks:,}, "
                    "which is what a sweep holds in memory",
                    hint="Sweep larger chunks, a sample of the corpus, or raise sweep.max_chunks.",
                )
        index = ExactIndex(
            [place.chunk_id for place in places],
            [place.document_id for place in places],
            self._embed(texts),
            self._bm25.encode_documents(texts),
        )
        found = index.search(self._dense_queries, self._sparse_queries, limit)
        branches = dict(zip(self._queries, found, strict=True))
        return Recut(tuple(places), num_tokens, branches)
