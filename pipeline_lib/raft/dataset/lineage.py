"""Which rows, datasets and models saw a document, and in which version.

Every dataset has `lineage.parquet`: one line for each use of a document in a row, with the hash of
the text that it had then. A model saw what the dataset it was trained on holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.artifacts.manifest import ArtifactRef, Manifest
from pipeline_lib.artifacts.store import ArtifactStore
from pipeline_lib.corpus.documents import document_id
from pipeline_lib.corpus.schema import DOCUMENTS_FILE, Document, read_rows
from pipeline_lib.corpus.writing import ParquetWriter
from pipeline_lib.errors import InputError
from pipeline_lib.raft.rows import Passage, RaftRow

LINEAGE_FILE = "lineage.parquet"
Use = Literal["oracle", "source", "distractor", "made_up_from", "text"]
"""How a row uses a document: as what answers; as what an unanswerable question, or a row without
its oracle, is about; as a passage beside it; as what a made-up passage was made from; as plain text
for pre-training (of no row)."""

_BATCH_RECORDS = 4096
_SHOWN_NEIGHBOURS = 5


class _Line(NamedTuple):
    """A row of the file."""

    document_id: str
    source_uri: str
    content_sha256: str
    split: str
    task: str
    row_id: str
    use: str
    chunk_id: str
    question: str


class LineageWriter:
    """Writes a dataset's `LINEAGE_FILE` as its rows are made; a context manager.

    Args:
        directory: of the dataset.
        documents: of the corpus.
    """

    def __init__(self, directory: Path, documents: Iterable[Document]) -> None:
        self._versions = {d.document_id: (d.source_uri, d.content_sha256) for d in documents}
        schema = pa.schema([(name, pa.string()) for name in _Line._fields])
        self._file: ParquetWriter[_Line] = ParquetWriter(
            directory / LINEAGE_FILE, schema, max_rows=_BATCH_RECORDS
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)

    def write(self, row: RaftRow) -> None:
        """Note the documents of a row, of whatever task."""
        for document, chunk_id, use in _uses(row):
            self._add(document, row.split, row.task, row.row_id, use, chunk_id, row.question)

    def write_text(self, document: str) -> None:
        """Note that a training document's whole text is in the dataset, for pre-training."""
        self._add(document, "train", "pretraining", "", "text", "", "")

    def _add(self, document: str, *values: str) -> None:
        self._file.write(_Line(document, *self._versions[document], *values))


def _uses(row: RaftRow) -> Iterator[tuple[str, str, Use]]:
    """Document, passage and use, each once."""
    uses: dict[tuple[str, str, Use], None] = {}
    for document, chunk_id in zip(row.oracle_document_ids, row.oracle_chunk_ids, strict=True):
        uses[document, chunk_id, "oracle" if row.oracle_present else "source"] = None
    for passage in row.context:
        if passage.role == "distractor":
            uses[passage.document_id, passage.chunk_id, _use(row, passage)] = None
    if row.source_document_id not in {document for document, _, _ in uses}:
        uses[row.source_document_id, "", "source"] = None
    yield from uses


def _use(row: RaftRow, passage: Passage) -> Use:
    if passage.source_chunk_id:
        return "made_up_from"
    is_about = not row.oracle_chunk_ids and passage.document_id == row.source_document_id
    return "source" if is_about else "distractor"


@dataclass(frozen=True)
class RowUse:
    """A row, or the plain text, that a document is in."""

    row_id: str
    """Empty for plain text."""
    split: str
    task: str
    use: Use
    chunk_id: str
    question: str
    content_sha256: str
    """Of the document's text then."""


@dataclass(frozen=True)
class DatasetUse:
    """A dataset that a document is in."""

    dataset: ArtifactRef
    rows: tuple[RowUse, ...]
    models: tuple[ArtifactRef, ...]
    """What was trained on it, or from a model that was."""


@dataclass(frozen=True)
class DocumentUse:
    """Everything that saw a document."""

    document_id: str
    source_uri: str
    datasets: tuple[DatasetUse, ...]
    """The oldest first; only those with the document."""
    num_unrecorded: int
    """Datasets that were made before there was a record, and may hold it."""

    @property
    def models(self) -> list[ArtifactRef]:
        """The models that were trained on rows with it, be it as a distractor."""
        seen: dict[str, ArtifactRef] = {}
        for each in self.datasets:
            if any(row.split == "train" for row in each.rows):
                seen |= {model.key: model for model in each.models}
        return list(seen.values())


def rows_of_document(artifacts: ArtifactStore, document: str) -> DocumentUse:
    """Which rows and which models saw a document.

    Args:
        artifacts: where to look; the record of every dataset in it is read.
        document: its URI, its id, or the end of its URI where only one document's URI ends so.

    Raises:
        InputError: no dataset and no corpus has such a document, or several have.
    """
    manifests = sorted(artifacts.manifests(), key=lambda manifest: manifest.finished_at)
    datasets = [manifest for manifest in manifests if manifest.ref.kind == "dataset"]
    records = {m.ref: path for m in datasets if (path := artifacts.file(m, LINEAGE_FILE))}
    known = _uris(records.values())
    found = _resolve(document, known)
    if found is None:  # corpora are larger, and only need reading for what no row is about
        known |= _uris(path for m in manifests if (path := artifacts.file(m, DOCUMENTS_FILE)))
        found = _resolve(document, known)
    if found is None:
        raise _unknown(document, known)
    wanted, uri = found
    children = _children(manifests)
    uses = [
        DatasetUse(ref, rows, tuple(_models_of(ref, children)))
        for ref, path in records.items()
        if (rows := tuple(_rows(path, wanted)))
    ]
    return DocumentUse(wanted, uri, tuple(uses), len(datasets) - len(records))


def _uris(paths: Iterable[Path]) -> dict[str, str]:
    """Document id to URI, of all that files speak of."""
    columns = ["document_id", "source_uri"]
    return {
        row["document_id"]: row["source_uri"] for path in paths for row in read_rows(path, columns)
    }


def _resolve(document: str, known: Mapping[str, str]) -> tuple[str, str] | None:
    """Id and URI of the document that is meant, if it is known."""
    for name in (document, document_id(document)):
        if name in known:
            return name, known[name]
    matches = sorted((uri, name) for name, uri in known.items() if uri.endswith(document))
    if len(matches) > 1:
        more = " …" if len(matches) > _SHOWN_NEIGHBOURS else ""
        shown = ", ".join(uri for uri, _ in matches[:_SHOWN_NEIGHBOURS])
        raise InputError(
            f"{len(matches)} documents have a URI that ends with {document!r}: {shown}{more}",
            hint="Give the whole URI.",
        )
    return (matches[0][1], matches[0][0]) if matches else None


def _unknown(document: str, known: Mapping[str, str]) -> InputError:
    shown = ", ".join(sorted(known.values())[:_SHOWN_NEIGHBOURS])
    return InputError(
        f"No corpus and no dataset has a document {document!r}",
        hint="Give its URI as the corpus has it"
        + (f", such as {shown}." if shown else "; there is no corpus yet."),
    )


def _rows(path: Path, document: str) -> Iterator[RowUse]:
    columns = ["row_id", "split", "task", "use", "chunk_id", "question", "content_sha256"]
    table = pq.read_table(path, columns=columns, filters=[("document_id", "=", document)])
    return (RowUse(**record) for record in table.to_pylist())


def _children(manifests: Iterable[Manifest]) -> dict[str, list[ArtifactRef]]:
    children: dict[str, list[ArtifactRef]] = {}
    for manifest in manifests:
        for ref in manifest.input_refs.values():
            children.setdefault(ref.key, []).append(manifest.ref)
    return children


def _models_of(
    dataset: ArtifactRef, children: Mapping[str, list[ArtifactRef]]
) -> Iterator[ArtifactRef]:
    """Models that were trained on a dataset, and those that were trained on from them."""
    seen = {dataset.key}
    waiting = [dataset]
    while waiting:
        for child in children.get(waiting.pop(0).key, []):
            if child.kind == "model" and child.key not in seen:
                seen.add(child.key)
                waiting.append(child)
                yield child
