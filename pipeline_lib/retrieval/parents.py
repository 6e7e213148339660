"""Expansion: a found chunk grows into the part of its document that surrounds it.

The text comes from the corpus artifact, since the payloads in Qdrant do not hold the white space
between two chunks, and a passage has to equal its document's text from start to end. Reading it
takes two columns of ids, and then only the row groups that hold a document in question.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline_lib.config import ExpandConfig
from pipeline_lib.corpus.schema import CHUNKS_FILE, DOCUMENTS_FILE
from pipeline_lib.errors import ArtifactCorruptError
from pipeline_lib.retrieval.hits import Hit


@dataclass(frozen=True)
class _Piece:
    """A chunk without its text."""

    chunk_id: str
    start: int
    end: int
    num_tokens: int
    heading_path: tuple[str, ...]


@dataclass(frozen=True)
class _Parent:
    """A document with its chunks in order."""

    text: str
    pieces: tuple[_Piece, ...]


class ParentReader:
    """Reads documents that hits belong to.

    Args:
        directory: local copy of the corpus artifact that the index was made from.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def expand(
        self, rankings: Sequence[Sequence[Hit]], config: ExpandConfig, *, limit: int
    ) -> list[list[Hit]]:
        """Each ranking with its hits grown into passages, at most `limit` of them.

        Hits are taken by rank. A hit whose chunk lies in an earlier passage is merged into that
        one; a passage ends where an earlier one begins. So no chunk comes twice and no passage
        exceeds `config.max_tokens`, except by a chunk that does so alone.

        Raises:
            ArtifactCorruptError: the corpus does not have a hit's chunk.
        """
        parents = self._parents({hit.document_id for hits in rankings for hit in hits})
        return [_expanded(hits, parents, config, limit) for hits in rankings]

    def _parents(self, document_ids: Collection[str]) -> dict[str, _Parent]:
        pieces: dict[str, list[tuple[int, _Piece]]] = {each: [] for each in document_ids}
        columns = ["document_id", "ordinal", "chunk_id", "start", "end", "num_tokens"]
        columns.append("heading_path")
        for row in _rows_of(self._directory / CHUNKS_FILE, document_ids, columns):
            piece = _Piece(
                chunk_id=row["chunk_id"],
                start=row["start"],
                end=row["end"],
                num_tokens=row["num_tokens"],
                heading_path=tuple(row["heading_path"] or ()),
            )
            pieces[row["document_id"]].append((row["ordinal"], piece))
        documents = _rows_of(
            self._directory / DOCUMENTS_FILE, document_ids, ["document_id", "text"]
        )
        return {
            row["document_id"]: _Parent(
                row["text"],
                tuple(piece for _, piece in sorted(pieces[row["document_id"]], key=_ordinal)),
            )
            for row in documents
        }


def _ordinal(numbered: tuple[int, _Piece]) -> int:
    return numbered[0]


def _rows_of(
    path: Path, document_ids: Collection[str], columns: list[str]
) -> Iterator[dict[str, Any]]:
    """The rows of these documents, in the file's order."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            [ids] = file.read_row_group(group, columns=["document_id"]).columns
            is_wanted = pc.is_in(ids, value_set=pa.array(sorted(document_ids), ids.type))
            if pc.any(is_wanted).as_py():
                yield from file.read_row_group(group, columns).filter(is_wanted).to_pylist()


def _expanded(
    hits: Sequence[Hit], parents: Mapping[str, _Parent], config: ExpandConfig, limit: int
) -> list[Hit]:
    passages: list[Hit] = []
    taken: dict[str, set[int]] = {}
    for hit in hits:
        if len(passages) == limit:
            break
        parent = parents.get(hit.document_id)
        index = None if parent is None else _index_of(hit.chunk_id, parent.pieces)
        if parent is None or index is None:
            raise ArtifactCorruptError(
                f"The corpus that the index was made from does not have the chunk {hit.chunk_id} "
                f"of {hit.source_uri}",
                hint="Run the ingest and the index stage again.",
            )
        closed = taken.setdefault(hit.document_id, set())
        if index in closed:
            continue
        span = _grown(parent.pieces, index, closed, config)
        closed.update(span)
        passages.append(_passage(hit, parent, span, rank=len(passages) + 1))
    return passages


def _index_of(chunk_id: str, pieces: Sequence[_Piece]) -> int | None:
    return next((i for i, piece in enumerate(pieces) if piece.chunk_id == chunk_id), None)


def _grown(
    pieces: Sequence[_Piece], index: int, closed: Collection[int], config: ExpandConfig
) -> range:
    """Indices around `index`, taken in turn after and before it while they fit.

    A side ends at the document's end, at a chunk of another passage or (by section) of another
    heading, and at the first chunk that no longer fits.
    """
    first = last = index
    num_tokens = pieces[index].num_tokens
    open_sides = [1, -1]
    while open_sides:
        side = open_sides.pop(0)
        neighbour = last + 1 if side > 0 else first - 1
        if not 0 <= neighbour < len(pieces) or neighbour in closed:
            continue
        if config.unit == "section" and (
            pieces[neighbour].heading_path != pieces[index].heading_path
        ):
            continue
        added = _added_tokens(pieces[neighbour], pieces[first].start, pieces[last].end)
        if num_tokens + added > config.max_tokens:
            continue
        num_tokens += added
        first, last = min(first, neighbour), max(last, neighbour)
        open_sides.append(side)
    return range(first, last + 1)


def _added_tokens(piece: _Piece, start: int, end: int) -> int:
    """Tokens of a neighbour of `start` to `end`, but for the share that overlaps it."""
    length = piece.end - piece.start
    shared = max(0, min(piece.end, end) - max(piece.start, start))
    return math.ceil(piece.num_tokens * (length - shared) / length) if length else 0


def _passage(hit: Hit, parent: _Parent, span: range, *, rank: int) -> Hit:
    covered = [parent.pieces[index] for index in span]
    start = min(piece.start for piece in covered)
    end = max(piece.end for piece in covered)
    return replace(
        hit,
        rank=rank,
        start=start,
        end=end,
        text=parent.text[start:end],
        covered_ids=tuple(piece.chunk_id for piece in covered),
    )
