"""What a row rests on, and whether it is as it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline_lib.corpus.schema import Corpus
from pipeline_lib.raft.keys import make_row_id
from pipeline_lib.raft.rows import Passage, RaftRow, Split


class Standing:
    """Which passages of a corpus stand unchanged in another, and so which rows do.

    A passage stands if its text is as it was, and its document's title, which is shown with it. In
    training rows its document must also be in the same split, which decides in whose contexts it
    may be.

    Args:
        documents_before: document id to title and hash of the text.
        splits_before: document id to split, in the plan before.
        chunks_before: passages as rows of `chunks.parquet`; read once.
        corpus: the new one.
        split_of: document id to split, in the new plan.
    """

    def __init__(
        self,
        documents_before: Mapping[str, tuple[str, str]],
        splits_before: Mapping[str, Split],
        chunks_before: Iterable[Mapping[str, Any]],
        *,
        corpus: Corpus,
        split_of: Mapping[str, Split],
    ) -> None:
        documents = {d.document_id: (d.title, d.content_sha256) for d in corpus.documents}
        chunks = {chunk.chunk_id: chunk for chunk in corpus.chunks}
        self.changed_documents = frozenset(
            document
            for document in documents.keys() | documents_before.keys()
            if documents.get(document) != documents_before.get(document)
        )
        self._documents = documents.keys()
        self._split_of = split_of
        self._splits_before = splits_before
        same_title = {
            document
            for document in documents.keys() & documents_before.keys()
            if documents[document][0] == documents_before[document][0]
        }
        self._intact = {
            row["chunk_id"]
            for row in chunks_before
            if row["document_id"] in same_title
            and (chunk := chunks.get(row["chunk_id"])) is not None
            and chunk.text == row["text"]
        }

    def problem(self, row: RaftRow) -> str | None:
        """Why a row cannot stay; `None` if it can.

        `document_deleted`, `split_changed`, `oracle_changed` or `distractor_changed`: the first
        that holds.
        """
        if row.source_document_id not in self._documents:
            return "document_deleted"
        if self._split_of.get(row.source_document_id) != row.split:
            return "split_changed"
        if not self._intact.issuperset(asked_about(row)):
            return "oracle_changed"
        if not all(self._stands(passage, row.split) for passage in row.context):
            return "distractor_changed"
        return None

    def _stands(self, passage: Passage, split: Split) -> bool:
        document = passage.document_id
        is_in_place = self._split_of.get(document) == self._splits_before.get(document)
        source = passage.source_chunk_id or passage.chunk_id
        return source in self._intact and (is_in_place or split != "train")


def asked_about(row: RaftRow) -> tuple[str, ...]:
    """Ids of the passages that a question is about.

    Its oracles; for a question without, the passage that it was written about, which is a
    distractor of its row.
    """
    if row.oracle_chunk_ids:
        return row.oracle_chunk_ids
    own = [p.chunk_id for p in row.context if p.document_id == row.source_document_id]
    named = [chunk for chunk in own if make_row_id(row.question, [chunk]) == row.row_id]
    return tuple((named or own)[:1])


def is_edited(row: RaftRow) -> bool:
    """Whether a reviewer gave the row another question or answer."""
    return "reviewer" in (row.provenance.question_source, row.provenance.answer_source)
