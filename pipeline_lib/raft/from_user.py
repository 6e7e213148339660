"""Rows from the user's own questions and answers; the teacher only writes the reasoning."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.corpus.schema import Chunk, Corpus, Document
from pipeline_lib.progress import Progress
from pipeline_lib.raft.assembly import RowAssembler
from pipeline_lib.raft.drafts import Draft, Failure, KnownAnswer, Writer, Written
from pipeline_lib.raft.evidence import Support, find_support
from pipeline_lib.raft.from_teacher import PassageSearcher, search_depth
from pipeline_lib.raft.funnel import Funnel, Reject
from pipeline_lib.raft.quotes import fold
from pipeline_lib.raft.rows import RaftRow, ReasoningStep
from pipeline_lib.raft.splitting import split_documents
from pipeline_lib.raft.user_pairs import UserPair, UserPairs
from pipeline_lib.retrieval.search import Hit

USER_STEPS = ("pair", "support", "wanted", "context")
"""The funnel: a proper line about a known document, whose answer a passage supports, still wanted,
with enough distractors."""

_SEARCH_BATCH = 256


@dataclass(frozen=True)
class _Located:
    """A pair with its passage."""

    pair: UserPair
    support: Support
    hits: tuple[Hit, ...]


class UserRows:
    """The user's pairs as rows.

    The question and the answer stay word for word; the pair's passage is the one that supports the
    answer best, among its document's or else among those that retrieval finds. Where the teacher
    writes no acceptable reasoning, the row has its quotes only: a user's pair is never lost to a
    weak teacher.

    Args:
        writer: makes the teacher explain.
        assembler: gives drafts their contexts.
        searcher: finds passages.
        config: how many, and which bounds.
        funnel: counts.
        progress: one phase is running; rows are reported as they are kept.
    """

    def __init__(
        self,
        writer: Writer,
        assembler: RowAssembler,
        searcher: PassageSearcher,
        config: SynthesizeConfig,
        funnel: Funnel,
        progress: Progress,
    ) -> None:
        self._writer = writer
        self._assembler = assembler
        self._searcher = searcher
        self._config = config
        self._funnel = funnel
        self._progress = progress
        self.num_without_reasoning = 0
        """Rows whose reasoning is their quotes only."""

    def make(self, pairs: UserPairs, corpus: Corpus) -> list[RaftRow]:
        """Rows from pairs, at most `config.num_questions`.

        Raises:
            InputError: the pairs are about fewer than three documents.
        """
        for bad in pairs.bad_lines:
            text = f"line {bad.line}: {bad.detail}"
            self._funnel.drop(
                Reject(question="", chunk_id="", stage="pair", reason=bad.reason, text=text)
            )
        located = self._locate(pairs.pairs, corpus)
        split_of = split_documents(
            (item.support.chunk.document_id for item in located),
            validation_fraction=self._config.validation_fraction,
            test_fraction=self._config.test_fraction,
            seed=self._config.seed,
        )
        wanted = self._wanted(located)
        rows = []
        for item, written in zip(wanted, self._explain(wanted), strict=True):
            row = self._assembler.assemble(
                Draft(
                    split=split_of[item.support.chunk.document_id],
                    question=item.pair.question,
                    oracle=item.support.chunk,
                    written=written,
                    hits=item.hits,
                    source="user",
                )
            )
            if isinstance(row, Failure):
                self._drop(item.pair, row.stage, row.reason, chunk=item.support.chunk)
                continue
            self._funnel.keep("context")
            self._progress.advance()
            rows.append(row)
        return rows

    def _locate(self, pairs: Sequence[UserPair], corpus: Corpus) -> list[_Located]:
        by_document: dict[str, list[Chunk]] = {}
        for chunk in corpus.chunks:
            by_document.setdefault(chunk.document_id, []).append(chunk)
        names = _document_names(corpus.documents)
        by_id = {chunk.chunk_id: chunk for chunk in corpus.chunks}
        known = [pair for pair in pairs if self._is_about_known_document(pair, names)]
        located = []
        for pair, hits in zip(known, self._search(known), strict=True):
            if pair.document_id is not None:
                chunks = by_document.get(names[pair.document_id], [])
            else:
                top = hits[: self._config.round_trip_top_k]
                chunks = [by_id[hit.chunk_id] for hit in top if hit.chunk_id in by_id]
            support = find_support(
                pair.question, pair.answer, chunks, min_quote_chars=self._config.min_quote_chars
            )
            if support is None:
                self._drop(pair, "support", "answer_not_supported", pair.answer)
                continue
            self._funnel.keep("support")
            located.append(_Located(pair, support, hits))
        return located

    def _is_about_known_document(self, pair: UserPair, names: Mapping[str, str]) -> bool:
        if pair.document_id is None or pair.document_id in names:
            self._funnel.keep("pair")
            return True
        self._drop(pair, "pair", "unknown_document", pair.document_id)
        return False

    def _search(self, pairs: Sequence[UserPair]) -> list[tuple[Hit, ...]]:
        limit = max(self._config.round_trip_top_k, search_depth(self._config))
        found: list[tuple[Hit, ...]] = []
        for start in range(0, len(pairs), _SEARCH_BATCH):
            questions = [pair.question for pair in pairs[start : start + _SEARCH_BATCH]]
            self._progress.note(f"searching: {start} of {len(pairs)} questions")
            found += map(
                tuple,
                self._searcher.search(questions, limit=limit, config=self._config.retrieval),
            )
        return found

    def _wanted(self, located: list[_Located]) -> list[_Located]:
        """As many as wanted, drawn with the seed, in the file's order."""
        rng = random.Random(f"{self._config.seed}:pairs")  # noqa: S311 (seeded on purpose)
        count = min(self._config.num_questions, len(located))
        chosen = set(rng.sample(range(len(located)), count))
        for number, item in enumerate(located):
            if number in chosen:
                self._funnel.keep("wanted")
            else:
                self._drop(item.pair, "wanted", "more_than_num_questions", chunk=item.support.chunk)
        return [item for number, item in enumerate(located) if number in chosen]

    def _explain(self, located: Sequence[_Located]) -> list[Written]:
        known = [
            KnownAnswer(
                question=item.pair.question,
                final_answer=item.pair.answer,
                oracle=item.support.chunk,
                evidence=item.support.quotes,
            )
            for item in located
        ]
        seen: set[str] = set()
        results = []
        for item, written in zip(known, self._writer.explain(known) if known else [], strict=True):
            reasoning = fold(" ".join(step.text for step in written.steps)) if written else ""
            if written is None or reasoning.casefold() in seen:
                self.num_without_reasoning += 1
                steps = tuple(ReasoningStep(text="", quote=quote) for quote in item.evidence)
                written = Written(steps, item.final_answer)
            seen.add(reasoning.casefold())
            results.append(written)
        return results

    def _drop(
        self,
        pair: UserPair,
        stage: str,
        reason: str,
        text: str = "",
        chunk: Chunk | None = None,
    ) -> None:
        where = f"line {pair.line}" + (f": {text}" if text else "")
        self._funnel.drop(
            Reject(
                question=pair.question,
                chunk_id=chunk.chunk_id if chunk else "",
                stage=stage,
                reason=reason,
                text=where,
            )
        )


def _document_names(documents: Sequence[Document]) -> dict[str, str]:
    """What a pair may call a document: its id, its URI, or the URI's end where that is unique."""
    short_names: dict[str, list[str]] = {}
    for document in documents:
        end = re.split(r"[#/]", document.source_uri)[-1]
        short_names.setdefault(end, []).append(document.document_id)
    names = {end: ids[0] for end, ids in short_names.items() if len(ids) == 1}
    names |= {document.source_uri: document.document_id for document in documents}
    return names | {document.document_id: document.document_id for document in documents}
