"""Rows from the user's own questions and answers; the teacher only writes the reasoning."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.corpus.schema import Chunk, Corpus, Document
from pipeline_lib.progress import Progress
from pipeline_lib.raft.candidates import Candidate, Rejection, Topic, Written
from pipeline_lib.raft.evidence import Support, find_support
from pipeline_lib.raft.funnel import Funnel, Reject
from pipeline_lib.raft.keys import make_row_id, unit_interval
from pipeline_lib.raft.quotes import fold
from pipeline_lib.raft.rows import RaftRow, ReasoningStep, Split
from pipeline_lib.raft.synthesis import Synthesis, search_depth
from pipeline_lib.raft.user_pairs import UserPair, UserPairs
from pipeline_lib.retrieval.search import Hit, PassageSearcher

USER_STEPS = ("pair", "support", "wanted")
"""The funnel begins: a proper line about a known document, whose answer a passage supports, still
wanted."""

USER_KIND = "user"
_SEARCH_BATCH = 256
_ANSWER_BATCH = 512
"""Pairs that are explained and given contexts at a time."""


@dataclass(frozen=True)
class LocatedPair:
    """A pair with the passage that supports its answer."""

    pair: UserPair
    support: Support
    hits: tuple[Hit, ...] = ()
    """What retrieval finds for the question, where it had to be searched for already."""

    @property
    def document_id(self) -> str:
        """The document that supports it."""
        return self.support.chunks[0].document_id

    @property
    def row_id(self) -> str:
        """The name of its row."""
        return make_row_id(self.pair.question, [chunk.chunk_id for chunk in self.support.chunks])

    def candidate(self, split: Split) -> Candidate:
        """The pair as a candidate whose answer is known."""
        return Candidate(
            topic=Topic(split=split, chunks=self.support.chunks, kind=USER_KIND),
            question=self.pair.question,
            known_answer=self.pair.answer,
            evidence=self.support.quotes,
            hits=self.hits,
            source="user",
            origin=f"line {self.pair.line}",
        )


def locate_pairs(
    pairs: UserPairs,
    corpus: Corpus,
    searcher: PassageSearcher,
    config: SynthesizeConfig,
    funnel: Funnel,
    progress: Progress,
) -> list[LocatedPair]:
    """The pairs whose answer a passage supports, in the file's order, at most `num_questions`.

    A pair's passage is the one that supports the answer best, among its document's or else among
    those that retrieval finds. Where there are more pairs than wanted, the seed draws; which ones
    does not depend on the other pairs' places.
    """
    for bad in pairs.bad_lines:
        text = f"line {bad.line}: {bad.detail}"
        funnel.drop(Reject(stage="pair", reason=bad.reason, text=text))
    by_document: dict[str, list[Chunk]] = {}
    for chunk in corpus.chunks:
        by_document.setdefault(chunk.document_id, []).append(chunk)
    names = _document_names(corpus.documents)
    by_id = {chunk.chunk_id: chunk for chunk in corpus.chunks}
    documents = {document.document_id: document for document in corpus.documents}
    known = [pair for pair in pairs.pairs if _is_about_known_document(pair, names, funnel)]
    unnamed = [pair for pair in known if pair.document_id is None]
    found = dict(zip(unnamed, _search(unnamed, searcher, config, progress), strict=True))
    located = []
    for pair in known:
        document, hits = None, found.get(pair, ())
        if pair.document_id is not None:
            document = documents[names[pair.document_id]]
            chunks = by_document.get(document.document_id, [])
        else:
            top = hits[: max(1, config.gates.round_trip_top_k)]
            chunks = [by_id[hit.chunk_id] for hit in top if hit.chunk_id in by_id]
        support = find_support(
            pair.question,
            pair.answer,
            chunks,
            min_quote_chars=config.gates.min_quote_chars,
            document=document,
        )
        if support is None:
            funnel.drop(_reject(pair, "support", "answer_not_supported", pair.answer))
            continue
        funnel.keep("support")
        located.append(LocatedPair(pair, support, hits))
    return _wanted(located, config, funnel)


class UserRows:
    """The user's pairs as rows.

    The question and the answer stay word for word. Where the teacher writes no acceptable
    reasoning, the row has its quotes only: a user's pair is never lost to a weak teacher.

    Args:
        parts: what makes and checks candidates and rows.
        kept: rows of the dataset before that need not be made again, by row id.
    """

    def __init__(self, parts: Synthesis, kept: Mapping[str, RaftRow]) -> None:
        self._parts = parts
        self._kept = kept
        self._reasonings: set[str] = set()
        self.num_without_reasoning = 0
        """Rows made now whose reasoning is their quotes only."""
        self.num_kept = 0
        """Rows taken over."""

    def run(self, located: Sequence[LocatedPair], split_of: Mapping[str, Split]) -> None:
        """Make or take over the rows of all pairs; they go to `Synthesis.rows`."""
        for start in range(0, len(located), _ANSWER_BATCH):
            self._batch(located[start : start + _ANSWER_BATCH], split_of)

    def _batch(self, located: Sequence[LocatedPair], split_of: Mapping[str, Split]) -> None:
        parts = self._parts
        rows: dict[str, RaftRow] = {}
        order = [item.row_id for item in located]
        new = []
        for item, row_id in zip(located, order, strict=True):
            candidate = item.candidate(split_of[item.document_id])
            kept = self._kept.get(row_id)
            if kept is not None and _has_answer(kept, candidate):
                rows[row_id] = kept
                self.num_kept += 1
            else:
                new.append(candidate)
        passed = self._found(parts.check_questions(new))
        explained = zip(passed, parts.writer.answer(passed), strict=True)
        answered = [replace(each, written=self._explained(each, why)) for each, why in explained]
        rows |= {row.row_id: row for _, row in parts.contextualize(answered)}
        for row_id in order:
            if row_id in rows:
                parts.keep(rows[row_id])

    def _found(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Candidates with what retrieval finds, for their distractors."""
        found = iter(self._parts.find([each for each in candidates if not each.hits]))
        return [each if each.hits else next(found) for each in candidates]

    def _explained(self, candidate: Candidate, result: Written | Rejection) -> Written:
        """What the teacher wrote, or the quotes alone where it is of no use or said before."""
        if isinstance(result, Written):
            reasoning = fold(" ".join(step.text for step in result.steps)).casefold()
            if reasoning not in self._reasonings:
                self._reasonings.add(reasoning)
                return result
        self.num_without_reasoning += 1
        steps = tuple(ReasoningStep(text="", quote=quote) for quote in candidate.evidence)
        return Written(steps, candidate.known_answer or "")


def _has_answer(row: RaftRow, candidate: Candidate) -> bool:
    """Whether a row taken over still says what the user's file says."""
    return (
        row.target == "refuse"
        or row.provenance.answer_source == "reviewer"
        or row.final_answer == candidate.known_answer
    )


def _wanted(
    located: Sequence[LocatedPair], config: SynthesizeConfig, funnel: Funnel
) -> list[LocatedPair]:
    ranked = sorted(
        located, key=lambda item: unit_interval(config.seed, "pair", item.pair.question)
    )
    chosen = {item.pair.line for item in ranked[: config.num_questions]}
    for item in located:
        if item.pair.line in chosen:
            funnel.keep("wanted")
        else:
            chunk = item.support.chunks[0]
            funnel.drop(_reject(item.pair, "wanted", "more_than_num_questions", chunk=chunk))
    return [item for item in located if item.pair.line in chosen]


def _is_about_known_document(pair: UserPair, names: Mapping[str, str], funnel: Funnel) -> bool:
    if pair.document_id is None or pair.document_id in names:
        funnel.keep("pair")
        return True
    funnel.drop(_reject(pair, "pair", "unknown_document", pair.document_id))
    return False


def _search(
    pairs: Sequence[UserPair],
    searcher: PassageSearcher,
    config: SynthesizeConfig,
    progress: Progress,
) -> Iterator[tuple[Hit, ...]]:
    for start in range(0, len(pairs), _SEARCH_BATCH):
        questions = [pair.question for pair in pairs[start : start + _SEARCH_BATCH]]
        progress.note(f"searching: {start} of {len(pairs)} questions")
        limit = search_depth(config)
        yield from map(tuple, searcher.search(questions, limit=limit, config=config.retrieval))


def _reject(
    pair: UserPair, stage: str, reason: str, text: str = "", chunk: Chunk | None = None
) -> Reject:
    return Reject(
        question=pair.question,
        chunk_id=chunk.chunk_id if chunk else "",
        document_id=chunk.document_id if chunk else "",
        kind=USER_KIND,
        stage=stage,
        reason=reason,
        text=f"line {pair.line}" + (f": {text}" if text else ""),
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
