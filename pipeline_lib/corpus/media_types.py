"""The kinds of content that ingest knows."""

from __future__ import annotations

PLAIN_TEXT = "text/plain"
MARKDOWN = "text/markdown"
RESTRUCTURED_TEXT = "text/x-rst"
HTML = "text/html"
CSV = "text/csv"
SOURCE_CODE = "text/x-source"
NOTEBOOK = "application/x-ipynb+json"
PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
EPUB = "application/epub+zip"

JSONL = "application/jsonl"
PARQUET = "application/vnd.apache.parquet"
ARROW = "application/vnd.apache.arrow.file"
ZIP = "application/zip"
TAR = "application/x-tar"

RECORDS = frozenset({JSONL, PARQUET, ARROW})
"""Files that hold many documents, one a record."""
ARCHIVES = frozenset({ZIP, TAR})
"""Files that hold other files; TAR also compressed by gzip, bzip2 or xz."""
