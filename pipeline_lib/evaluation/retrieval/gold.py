"""Which passages of a corpus are relevant, by judgements about documents, spans or chunks.

Rankings of chunks become rankings of what was judged: a document counts once, at its best chunk,
under the name it has in the judgements, so that the runs we write can be scored against the user's
own qrels. A judged document or span that the corpus does not have stays relevant and is never
found: what ingest lost is a loss of retrieval too.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from pipeline_lib.errors import InputError
from pipeline_lib.evaluation.retrieval.judgements import Gains, Judgements, Span

Level = Literal["documents", "spans", "chunks"]

LEAST_COVERAGE = 0.5
"""Share of a span that a chunk must cover to count as relevant."""
_SHOWN_NAMES = 3


class Found(NamedTuple):
    """A chunk that a search found."""

    chunk_id: str
    document_id: str
    score: float


class ChunkPlace(NamedTuple):
    """Where a chunk lies in its document's text; code points, end exclusive."""

    chunk_id: str
    document_id: str
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class CorpusDocument:
    """What of a document its judgements may call it by."""

    document_id: str
    source_uri: str
    metadata_json: str = "{}"


@dataclass(frozen=True, kw_only=True)
class Gold:
    """Relevance in the units of the rankings."""

    level: Level
    relevance: Mapping[str, Gains]
    """Query id to unit (document name, or chunk id) to gain."""
    names: Mapping[str, str]
    """Document id to its name in the judgements."""
    num_unmatched: int
    """Judged documents, spans or chunks that the corpus does not have."""
    num_judged: int
    examples: tuple[str, ...] = ()
    """Some of the unmatched."""

    def ranking(self, found: Iterable[Found]) -> list[tuple[str, float]]:
        """Judged units with scores, best first, each once."""
        if self.level == "documents":
            units = ((self.names.get(f.document_id, f.document_id), f.score) for f in found)
        else:
            units = ((f.chunk_id, f.score) for f in found)
        best: dict[str, float] = {}
        for unit, score in units:
            best.setdefault(unit, score)
        return list(best.items())

    def restricted(self, queries: Sequence[str]) -> Gold:
        """The same for some of the queries, in their order."""
        return replace(self, relevance={query: self.relevance[query] for query in queries})

    def check(self, max_unmatched_fraction: float) -> None:
        """Refuse judgements that are about another corpus.

        Raises:
            InputError: too large a share of what was judged is not in the corpus.
        """
        if self.num_unmatched > max_unmatched_fraction * self.num_judged:
            raise InputError(
                f"{self.num_unmatched} of {self.num_judged} judged {self.level} are not in the "
                f"corpus, for example {', '.join(self.examples)}",
                hint="Judgements name documents by document id, source URI, record id or file "
                "name. Was the corpus made from other sources, or were they dropped? See its "
                "drops.parquet; max_unmatched_fraction allows more.",
            )


def choose_level(judgements: Judgements, wanted: str, chunk_ids: set[str]) -> Level:
    """The level asked for, or the finest that the judgements allow.

    Raises:
        InputError: there are no judgements of that level.
    """
    has: dict[Level, bool] = {
        "chunks": bool(judgements.chunks),
        "spans": bool(judgements.spans),
        "documents": bool(judgements.documents),
    }
    if wanted != "auto":
        level: Level = wanted  # type: ignore[assignment]
        if not has[level]:
            there = " and ".join(each for each, is_there in has.items() if is_there)
            raise InputError(f"There are no judgements of {wanted}; there are some of {there}")
        return level
    if has["chunks"]:
        judged = {chunk for gains in judgements.chunks.values() for chunk in gains}
        if judged <= chunk_ids or not has["spans"]:
            return "chunks"
    return "spans" if has["spans"] else "documents"


def match_documents(names: Iterable[str], documents: Iterable[CorpusDocument]) -> dict[str, str]:
    """Name in the judgements to document id, for those that name exactly one document.

    Tried in this order: document id, source URI, record id (behind `#`, or `_id` and `id` of the
    metadata), file name, file name without suffix.
    """
    by_kind: list[dict[str, set[str]]] = [defaultdict(set) for _ in _NAMINGS]
    for document in documents:
        for found, naming in zip(by_kind, _NAMINGS, strict=True):
            for name in naming(document):
                found[name].add(document.document_id)
    matched: dict[str, str] = {}
    for name in set(names):
        candidates = (found[name] for found in by_kind if len(found.get(name, ())) == 1)
        for candidate in candidates:
            matched[name] = next(iter(candidate))
            break
    return matched


def document_gold(judgements: Judgements, documents: Iterable[CorpusDocument]) -> Gold:
    """Relevance of documents."""
    judged = {name for gains in judgements.documents.values() for name in gains}
    matched = match_documents(judged, documents)
    wanted = {
        name for gains in judgements.documents.values() for name, gain in gains.items() if gain > 0
    }
    missing = sorted(wanted - matched.keys())
    return Gold(
        level="documents",
        relevance=judgements.documents,
        names={document_id: name for name, document_id in matched.items()},
        num_unmatched=len(missing),
        num_judged=len(wanted),
        examples=tuple(missing[:_SHOWN_NAMES]),
    )


def chunk_gold(judgements: Judgements, chunk_ids: set[str]) -> Gold:
    """Relevance of the chunks that questions were written about."""
    wanted = {chunk for gains in judgements.chunks.values() for chunk in gains}
    missing = sorted(wanted - chunk_ids)
    return Gold(
        level="chunks",
        relevance=judgements.chunks,
        names={},
        num_unmatched=len(missing),
        num_judged=len(wanted),
        examples=tuple(missing[:_SHOWN_NAMES]),
    )


def span_gold(
    judgements: Judgements,
    spans: Mapping[str, Sequence[Span | None]],
    chunks: Iterable[ChunkPlace],
) -> Gold:
    """Relevance of the chunks that cover at least half of a span.

    A span that no chunk covers so far, and one that was not located, stays relevant under a name of
    its own, so that cutting it to pieces is no way to be rid of it.

    Args:
        judgements: whose `spans` are meant.
        spans: the same, located by `locate_spans`; `None` where that failed.
        chunks: of the corpus, or of another way to cut it.
    """
    places: dict[str, list[ChunkPlace]] = defaultdict(list)
    for chunk in chunks:
        places[chunk.document_id].append(chunk)
    relevance: dict[str, dict[str, int]] = {}
    missing = []
    for query, located in spans.items():
        relevance[query] = {}
        for given, span in zip(judgements.spans[query], located, strict=True):
            if span is None:
                missing.append(f"{given.document} {given.start}-{given.end}")
            covering = [] if span is None else _covering(span, places.get(span.document, ()))
            for unit in covering or [_uncovered(given)]:
                relevance[query][unit] = 1
    return Gold(
        level="spans",
        relevance=relevance,
        names={},
        num_unmatched=len(missing),
        num_judged=sum(len(located) for located in spans.values()),
        examples=tuple(missing[:_SHOWN_NAMES]),
    )


def coverage(chunk: ChunkPlace, span: Span) -> float:
    """Share of the span that lies in the chunk."""
    shared = min(chunk.end, span.end) - max(chunk.start, span.start)
    return max(0, shared) / (span.end - span.start)


def locate_spans(
    spans: Mapping[str, Sequence[Span]], matched: Mapping[str, str], texts: Mapping[str, str]
) -> dict[str, list[Span | None]]:
    """Spans in the corpus' own documents and offsets.

    Args:
        spans: query id to spans, by the judgements' names of documents.
        matched: such a name to document id (`match_documents`).
        texts: document id to cleaned text.
    """
    located: dict[str, list[Span | None]] = {}
    for query, given in spans.items():
        located[query] = []
        for span in given:
            document_id = matched.get(span.document, "")
            text = texts.get(document_id)
            place = None if text is None else _locate(span, text)
            found = None if place is None else Span(document_id, *place, span.text)
            located[query].append(found)
    return located


def _locate(span: Span, text: str) -> tuple[int, int] | None:
    """Where the span lies; cleaning may have moved it, or changed the white space in it."""
    if not span.text:
        return (span.start, span.end) if span.end <= len(text) else None
    if text[span.start : span.end] == span.text:
        return span.start, span.end
    words = span.text.split()
    if not words:
        return None
    pattern = re.compile(r"\s+".join(map(re.escape, words)))
    places = [found.span() for found in pattern.finditer(text)]
    return min(places, key=lambda place: abs(place[0] - span.start), default=None)


def _covering(span: Span, chunks: Sequence[ChunkPlace]) -> list[str]:
    return [chunk.chunk_id for chunk in chunks if coverage(chunk, span) >= LEAST_COVERAGE]


def _uncovered(span: Span) -> str:
    return f"uncovered:{span.document}:{span.start}-{span.end}"


def _record_ids(document: CorpusDocument) -> list[str]:
    _, mark, fragment = document.source_uri.rpartition("#")
    names = [fragment] if mark and fragment else []
    metadata = json.loads(document.metadata_json or "{}")
    if isinstance(metadata, dict):
        names += [str(metadata[key]) for key in ("_id", "id") if metadata.get(key)]
    return names


def _path(document: CorpusDocument) -> PurePosixPath:
    return PurePosixPath(document.source_uri.partition("#")[0])


_NAMINGS: tuple[Callable[[CorpusDocument], Iterable[str]], ...] = (
    lambda document: [document.document_id],
    lambda document: [document.source_uri],
    _record_ids,
    lambda document: [_path(document).name],
    lambda document: [_path(document).stem],
)
