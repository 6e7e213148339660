"""What an index finds for all queries: branch by branch, or by a whole search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import TypeAdapter

from pipeline_lib.artifacts.partial import PartialWork
from pipeline_lib.config import RetrievalConfig
from pipeline_lib.config.retrieval import ExpandConfig, RerankConfig
from pipeline_lib.evaluation.retrieval.exact import Branches
from pipeline_lib.evaluation.retrieval.gold import Found
from pipeline_lib.progress import Progress, phase
from pipeline_lib.retrieval.schema import BM25, DENSE
from pipeline_lib.retrieval.search import PassageSearcher

BATCH = 256
"""Queries per search: what a crash can cost."""
_FOUND = TypeAdapter(dict[str, list[Found]])


class IndexAsker:
    """Asks an index, and keeps every answer as partial work, so that a killed run goes on.

    Args:
        searcher: of the index.
        queries: query id to text.
        partial: of the evaluation.
        progress: counts queries.
    """

    def __init__(
        self,
        searcher: PassageSearcher,
        queries: Mapping[str, str],
        partial: PartialWork,
        progress: Progress,
    ) -> None:
        self._searcher = searcher
        self._queries = queries
        self._partial = partial
        self._progress = progress

    def branches(self, base: RetrievalConfig, limit: int) -> dict[str, Branches]:
        """Query id to what each branch finds, at most `limit` chunks, under the base's filters."""
        plain = base.model_copy(
            update={
                "prefetch_limit": limit,
                "rerank": RerankConfig(),
                "mmr_lambda": 1.0,
                "expand": ExpandConfig(),
            }
        )
        dense = self.found(plain.model_copy(update={"mode": "dense"}), limit, "dense branch")
        sparse = self.found(plain.model_copy(update={"mode": "sparse"}), limit, "sparse branch")
        return {query: {DENSE: dense[query], BM25: sparse[query]} for query in self._queries}

    def found(self, config: RetrievalConfig, limit: int, title: str) -> dict[str, list[Found]]:
        """Query id to the chunks of a whole search, best first; expansion is left out."""
        config = config.model_copy(update={"expand": ExpandConfig()})
        ids = list(self._queries)
        found: dict[str, list[Found]] = {}
        with phase(self._progress, f"Searching: {title}", len(ids), "queries") as ticker:
            for start in range(0, len(ids), BATCH):
                batch = ids[start : start + BATCH]
                key = f"found/{title.replace(' ', '-').replace('/', '-')}/{start:07d}.json"
                kept = self._partial.get(key)
                if kept is None:
                    answers = self._ask(batch, config, limit)
                    self._partial.put(key, _FOUND.dump_json(answers))
                else:
                    answers = _FOUND.validate_json(kept)
                found.update(answers)
                ticker.advance(len(batch))
        return found

    def _ask(
        self, batch: Sequence[str], config: RetrievalConfig, limit: int
    ) -> dict[str, list[Found]]:
        texts = [self._queries[query] for query in batch]
        answers = self._searcher.search(texts, limit=limit, config=config)
        return {
            query: [Found(hit.chunk_id, hit.document_id, hit.score) for hit in hits]
            for query, hits in zip(batch, answers, strict=True)
        }
