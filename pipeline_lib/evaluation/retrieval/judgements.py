"""Queries and what is relevant to them: from BEIR, TREC and span files, or from a dataset.

A folder may hold, each also with `.gz`:

    queries.jsonl          {"_id": …, "text": …}                        or queries.tsv: id, text
    qrels.tsv              query-id, corpus-id, score (a header row is fine)
    qrels/test.tsv         the same, where BEIR keeps it                or qrels.txt, qrels.trec:
                                                                        TREC's query 0 document gain
    spans.jsonl, qa.jsonl  {"id": …, "gold_doc_ids": [one], "spans": [{"start", "end", "text"}]}
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline_lib.artifacts.object_store import sha256_file
from pipeline_lib.errors import InputError
from pipeline_lib.evaluation.retrieval.lines import JsonRow, Line, json_rows, text_lines
from pipeline_lib.evaluation.retrieval.runs import unescape_id

Gains = Mapping[str, int]
"""Document or chunk to its gain; greater than 0 means relevant."""

_QUERY_FILES = ("queries.jsonl", "queries.tsv")
_QRELS_FILES = ("qrels.tsv", "qrels/test.tsv", "qrels.txt", "qrels.trec")
_SPAN_FILES = ("spans.jsonl", "qa.jsonl")
_ID_FIELDS = ("_id", "id", "query_id")
_TEXT_FIELDS = ("text", "query", "question")
_DOCUMENT_FIELDS = ("doc_id", "document_id", "corpus_id")
_SHOWN_CHARS = 80


@dataclass(frozen=True)
class Span:
    """A passage of a document that answers a query; offsets in code points, end exclusive."""

    document: str
    start: int
    end: int
    text: str = ""
    """What it should read, where the file says so; offsets are corrected by it."""


@dataclass(frozen=True, kw_only=True)
class Judgements:
    """Queries with at least one kind of judgement. Documents are called as their source does."""

    queries: Mapping[str, str]
    """Query id to text; every one of them is judged."""
    documents: Mapping[str, Gains] = field(default_factory=dict)
    """Query id to document name to gain."""
    spans: Mapping[str, tuple[Span, ...]] = field(default_factory=dict)
    chunks: Mapping[str, Gains] = field(default_factory=dict)
    """Query id to chunk id to gain, for questions that were written about chunks."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Queries and rows that could not be used, by reason."""


@dataclass(frozen=True, kw_only=True)
class JudgementFiles:
    """Where queries and judgements lie."""

    queries: Path
    qrels: Path | None
    spans: Path | None

    @property
    def sha256(self) -> str:
        """Changes whenever a byte of a file does."""
        paths = (self.queries, self.qrels, self.spans)
        marks = ["" if path is None else sha256_file(path) for path in paths]
        return hashlib.sha256("\n".join(marks).encode()).hexdigest()


def find_files(
    folder: Path | None, queries: Path | None = None, qrels: Path | None = None
) -> JudgementFiles:
    """The files of a folder; `queries` and `qrels` name others in place of what it holds.

    Args:
        folder: may be missing where both files are named.
        queries: a file of queries.
        qrels: a file of judgements.

    Raises:
        InputError: there is no file of queries, or none of judgements.
    """
    if folder is None:
        if queries is None or qrels is None:
            raise ValueError("without a folder, both files must be named")
        return JudgementFiles(queries=_require(queries), qrels=_require(qrels), spans=None)
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder of queries and judgements",
            hint="Give a folder with queries.jsonl and qrels.tsv (BEIR's layout).",
        )
    found = JudgementFiles(
        queries=_require(queries) if queries else _first(folder, _QUERY_FILES),
        qrels=_require(qrels) if qrels else _find(folder, _QRELS_FILES),
        spans=_find(folder, _SPAN_FILES),
    )
    if found.qrels is None and found.spans is None:
        raise _missing(folder, _QRELS_FILES + _SPAN_FILES)
    return found


def read_judgements(files: JudgementFiles) -> Judgements:
    """Read queries with their judgements.

    Queries without a relevant document or span are left out, as no metric is defined for them;
    so are judgements of queries that are not in the file of queries. Both are counted.

    Raises:
        InputError: a row is broken (the message names file and line), or nothing is left.
    """
    texts = read_queries(files.queries)
    qrels = read_qrels(files.qrels) if files.qrels is not None else {}
    spans = read_spans(files.spans) if files.spans is not None else {}
    relevant = {query for query, gains in qrels.items() if max(gains.values()) > 0}
    judged = relevant | spans.keys()
    queries = {query: text for query, text in texts.items() if query in judged}
    if not queries:
        raise InputError(
            f"None of the {len(texts)} queries in {files.queries} has a relevant document in "
            f"{files.qrels or files.spans}",
            hint="The ids of queries must be the same in both files.",
        )
    dropped = Counter(
        query_without_relevant_document=len(texts) - len(queries),
        judgement_of_unknown_query=len((qrels.keys() | spans.keys()) - texts.keys()),
    )
    return Judgements(
        queries=queries,
        documents={query: qrels[query] for query in queries if query in relevant},
        spans={query: spans[query] for query in queries if query in spans},
        dropped=+dropped,
    )


def read_queries(path: Path) -> dict[str, str]:
    """Query id to text, from JSONL or two tab-separated columns.

    Raises:
        InputError: a row is broken, an id comes twice, or there is no query.
    """
    queries: dict[str, str] = {}
    is_table = path.name.removesuffix(".gz").endswith(".tsv")
    for line, query, text in _query_rows_tsv(path) if is_table else _query_rows_jsonl(path):
        if not query or not text.strip():
            raise line.error("a query needs an id and a text")
        if query in queries:
            raise line.error(f"the query id {query!r} comes a second time")
        queries[query] = text
    if not queries:
        raise InputError(f"{path} holds no queries")
    return queries


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Query id to document id to gain, from BEIR's three columns or TREC's four.

    Which of the two is decided by the first line. In a file separated by tabs, ids may hold spaces;
    in TREC's they are escaped as `runs.escape_id` does.

    Raises:
        InputError: a row is broken, contradicts an earlier one, or there is none.
    """
    qrels: dict[str, dict[str, int]] = {}
    is_trec = False
    for position, line in enumerate(text_lines(path)):
        tabbed = line.text.split("\t")
        if position == 0:
            is_trec = len(line.text.split()) == 4 and len(tabbed) != 3
        fields = line.text.split() if is_trec else [each.strip() for each in tabbed]
        if len(fields) != (4 if is_trec else 3):
            wanted = "query, 0, document, gain" if is_trec else "query, document, gain and tabs"
            raise line.error(f"{len(fields)} columns instead of {wanted}")
        query, document, gain = fields[0], fields[-2], fields[-1]
        if not _is_integer(gain):
            if position == 0 and not is_trec:
                continue  # the header
            raise line.error(f"the gain {gain!r} is not a whole number")
        if is_trec:
            query, document = unescape_id(query), unescape_id(document)
        known = qrels.setdefault(query, {})
        if known.setdefault(document, int(gain)) != int(gain):
            raise line.error(f"{document!r} was judged {known[document]} for {query!r} before")
    if not qrels:
        raise InputError(f"{path} holds no judgements")
    return qrels


def read_spans(path: Path) -> dict[str, tuple[Span, ...]]:
    """Query id to its spans; rows without spans are passed over.

    Raises:
        InputError: a row is broken, or an id comes twice.
    """
    spans: dict[str, tuple[Span, ...]] = {}
    for row in json_rows(path):
        given = row.values.get("spans")
        if not given:
            continue
        if not isinstance(given, list):
            raise row.line.error("'spans' is not a list")
        query = _text_field(row, _ID_FIELDS)
        if query in spans:
            raise row.line.error(f"the query id {query!r} comes a second time")
        spans[query] = tuple(_span(row, each) for each in given)
    return spans


def _span(row: JsonRow, given: Any) -> Span:
    if not isinstance(given, dict):
        raise row.line.error("a span is an object with 'start' and 'end'")
    start, end = given.get("start"), given.get("end")
    if not isinstance(start, int) or not isinstance(end, int) or not 0 <= start < end:
        raise row.line.error(f"a span from {start!r} to {end!r}: needs 0 <= start < end")
    names = [given.get(name) or row.values.get(name) for name in _DOCUMENT_FIELDS]
    document = next((name for name in names if name), None)
    listed = row.values.get("gold_doc_ids") or []
    if document is None and isinstance(listed, list) and len(listed) == 1:
        document = listed[0]
    if document is None:
        raise row.line.error("a span does not say which document it is in ('doc_id')")
    return Span(str(document), start, end, str(given.get("text") or ""))


def _query_rows_jsonl(path: Path) -> Iterator[tuple[Line, str, str]]:
    for row in json_rows(path):
        yield row.line, _text_field(row, _ID_FIELDS), _text_field(row, _TEXT_FIELDS)


def _query_rows_tsv(path: Path) -> Iterator[tuple[Line, str, str]]:
    for line in text_lines(path):
        query, tab, text = line.text.partition("\t")
        if not tab:
            raise line.error("no tab between a query's id and its text")
        yield line, query.strip(), text.strip()


def _text_field(row: JsonRow, names: tuple[str, ...]) -> str:
    for name in names:
        value = row.values.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool):
            return str(value)
    fields = ", ".join(sorted(row.values))[:_SHOWN_CHARS]
    raise row.line.error(f"none of the fields {', '.join(names)} (it has: {fields or 'none'})")


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isascii() and text.removeprefix("-").isdigit()


def _first(folder: Path, names: tuple[str, ...]) -> Path:
    found = _find(folder, names)
    if found is None:
        raise _missing(folder, names)
    return found


def _find(folder: Path, names: tuple[str, ...]) -> Path | None:
    paths = (folder / f"{name}{suffix}" for name in names for suffix in ("", ".gz"))
    return next((path for path in paths if path.is_file()), None)


def _require(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"There is no file {path}")
    return path


def _missing(folder: Path, names: tuple[str, ...]) -> InputError:
    return InputError(
        f"{folder} has none of {', '.join(names)}",
        hint="A folder in BEIR's layout holds queries.jsonl and qrels.tsv; each may be a .gz.",
    )
