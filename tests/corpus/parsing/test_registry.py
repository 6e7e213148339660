"""Whatever a parser does, `parse` gives documents and drops."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus import media_types
from pipeline_lib.corpus.media_types import PLAIN_TEXT, RECORDS
from pipeline_lib.corpus.parsing import registry
from pipeline_lib.corpus.parsing.base import ParsedDocument, Segment
from pipeline_lib.corpus.parsing.detection import MEDIA_TYPES
from pipeline_lib.corpus.schema import Drop
from pipeline_lib.corpus.sources.base import SourceInput
from pipeline_lib.errors import ConfigError

ParseAll = Callable[..., list[ParsedDocument | Drop]]


def test_every_media_type_of_a_document_has_a_parser() -> None:
    opened_by_sources = (RECORDS | media_types.ARCHIVES) - {media_types.JSONL}
    assert set(MEDIA_TYPES.values()) - opened_by_sources == set(registry.BUILTIN_PARSERS)


@pytest.fixture
def replace_parser(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
    def replace(error: Exception) -> None:
        def parser(
            item: SourceInput, data: bytes, config: IngestConfig
        ) -> Iterator[ParsedDocument | Drop]:
            yield ParsedDocument(
                source_uri=item.uri, media_type=PLAIN_TEXT, segments=(Segment(text="a"),)
            )
            raise error

        monkeypatch.setattr(registry, "BUILTIN_PARSERS", {PLAIN_TEXT: parser})

    return replace


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError("too deep"), OSError("cut off")])
def test_whatever_a_library_raises_becomes_a_drop(
    parse_all: ParseAll, replace_parser: Callable[[Exception], None], error: Exception
) -> None:
    replace_parser(error)
    document, drop = parse_all(b"text", "file:a.txt")
    assert isinstance(document, ParsedDocument)
    assert isinstance(drop, Drop)
    assert drop.reason == "broken_file"
    assert drop.detail == f"the parser stopped with {type(error).__name__}: {error}"


@pytest.mark.parametrize("error", [MemoryError(), ConfigError("no such loader")])
def test_what_no_drop_can_stand_for_passes(
    parse_all: ParseAll, replace_parser: Callable[[Exception], None], error: Exception
) -> None:
    replace_parser(error)
    with pytest.raises(type(error)):
        parse_all(b"text", "file:a.txt")
