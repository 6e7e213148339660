"""Other loaders behind the same interface; fakes stand for what is used of the packages."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus.media_types import PDF
from pipeline_lib.corpus.parsing import loaders
from pipeline_lib.corpus.parsing.base import ParsedDocument, Segment
from pipeline_lib.corpus.schema import Drop
from pipeline_lib.corpus.sources.base import SourceInput
from pipeline_lib.errors import ConfigError

ParseOne = Callable[..., ParsedDocument]
Refuse = Callable[..., Drop]
DOCLING = IngestConfig(loader="docling")
UNSTRUCTURED = IngestConfig(loader="unstructured")


def install(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    """A module of that name, and its parents."""
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        path = ".".join(parts[:depth])
        if path not in sys.modules:
            monkeypatch.setitem(sys.modules, path, ModuleType(path))
    for key, value in members.items():
        monkeypatch.setattr(sys.modules[name], key, value, raising=False)


class ConversionError(Exception):
    pass


class FakeConverter:
    """Gives a page a line of the input back."""

    def convert(self, source: Any, max_num_pages: int) -> Any:
        assert (source.name, max_num_pages) == ("a.pdf", 5_000)
        lines = source.stream.read().decode().split("\n")[1:]
        if lines == ["broken"]:
            raise ConversionError("cannot read it")
        return SimpleNamespace(document=FakeDocument(lines))


class FakeDocument:
    def __init__(self, lines: list[str]) -> None:
        self.pages = dict(enumerate(lines, start=1))

    def export_to_markdown(self, page_no: int) -> str:
        return self.pages[page_no]


@pytest.fixture
def docling(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "docling.datamodel.base_models", DocumentStream=SimpleNamespace)
    install(monkeypatch, "docling.exceptions", ConversionError=ConversionError)
    install(monkeypatch, "docling.document_converter", DocumentConverter=FakeConverter)


@pytest.mark.usefixtures("docling")
def test_docling_gives_a_segment_per_page(parse_one: ParseOne, refuse: Refuse) -> None:
    parsed = parse_one(b"%PDF-1.7\n# One\n\n- two", "file:d/a.pdf", config=DOCLING)
    assert parsed.segments == (
        Segment(text="# One", kind="page", label="1"),
        Segment(text="- two", kind="page", label="3"),
    )
    assert (parsed.media_type, parsed.name, parsed.is_markdown) == (PDF, "a", True)
    drop = refuse(b"%PDF-1.7\nbroken", "file:d/a.pdf", config=DOCLING)
    assert (drop.reason, drop.detail) == ("broken_file", "docling: cannot read it")
    assert refuse(b"%PDF-1.7\n ", "file:d/a.pdf", config=DOCLING).reason == "no_text"


def test_unstructured_gives_a_segment_per_page(
    parse_one: ParseOne, monkeypatch: pytest.MonkeyPatch
) -> None:
    def partition(file: Any, metadata_filename: str, content_type: str) -> list[Any]:
        assert (metadata_filename, content_type) == ("a.pdf", PDF)
        assert file.read().startswith(b"%PDF")

        def element(category: str, text: str, page: int | None, depth: int | None = None) -> Any:
            metadata = SimpleNamespace(page_number=page, category_depth=depth)
            return SimpleNamespace(category=category, text=text, metadata=metadata)

        return [
            element("Title", "Returns", 1),
            element("Title", "Zones", 1, 1),
            element("ListItem", "A", 2),
            element("NarrativeText", "Text.", None),
        ]

    install(monkeypatch, "unstructured.partition.auto", partition=partition)
    assert parse_one(b"%PDF-1.7", "file:a.pdf", config=UNSTRUCTURED).segments == (
        Segment(text="# Returns\n\n## Zones", kind="page", label="1"),
        Segment(text="- A", kind="page", label="2"),
        Segment(text="Text."),
    )


@pytest.mark.parametrize("config", [DOCLING, UNSTRUCTURED])
def test_a_missing_package_is_an_error_that_names_the_extra(
    parse_one: ParseOne, config: IngestConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, config.loader, None)
    with pytest.raises(ConfigError, match=rf"pip install 'raftline\[{config.loader}\]'"):
        parse_one(b"%PDF-1.7", "file:a.pdf", config=config)


def test_text_and_tables_stay_with_the_built_in_parsers(parse_one: ParseOne) -> None:
    assert parse_one(b"a,b\n1,2\n", "file:a.csv", config=DOCLING)
    assert parse_one(b"# H", "file:a.md", config=DOCLING)


def own_loader(
    item: SourceInput, data: bytes, config: IngestConfig
) -> Iterator[ParsedDocument | Drop]:
    yield ParsedDocument(
        source_uri=item.uri, media_type=PDF, segments=(Segment(text=f"{len(data)} bytes"),)
    )


def test_an_installed_package_may_offer_the_loader(
    parse_one: ParseOne, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Offered(EntryPoint):
        def load(self) -> Any:
            return own_loader

    def offered(group: str, name: str) -> list[EntryPoint]:
        assert (group, name) == ("raftline.loaders", "docling")
        return [Offered(name, "package:own_loader", group)]

    monkeypatch.setattr(loaders, "entry_points", offered)
    parsed = parse_one(b"%PDF-1.7", "file:a.pdf", config=DOCLING)
    assert parsed.segments[0].text == "8 bytes"
