"""Filters on points of a real local collection, and what the configuration refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import ValidationError
from qdrant_client import QdrantClient, models

from pipeline_lib.config import RetrievalConfig, SearchFilter
from pipeline_lib.retrieval.filters import has_field, qdrant_filter

POINTS: list[dict[str, Any]] = [
    {
        "document_id": "a",
        "source_uri": "file:docs/intro.md",
        "title": "Intro",
        "language": "en",
        "media_type": "text/markdown",
        "heading_path": ["Guide", "Getting started"],
        "metadata": {"year": 2020, "tags": ["red", "blue"], "draft": True, "date": "2020-05-01"},
    },
    {
        "document_id": "b",
        "source_uri": "file:docs/api.html",
        "title": "API",
        "language": "de",
        "media_type": "text/html",
        "heading_path": ["API"],
        "metadata": {"year": "2020", "tags": ["green"], "date": "2020-05-02T18:30:00Z"},
    },
    {
        "document_id": "c",
        "source_uri": "s3://bucket/docs/old.txt",
        "title": "",
        "language": "",
        "media_type": "text/plain",
        "heading_path": [],
        "metadata": {"year": 2020.5, "odd key!": "x", "author": {"name": "Ada"}, "draft": "true"},
    },
    {"document_id": "d", "source_uri": "sample:d", "metadata": {"year": 1999, "big": 2**53 + 1}},
]
Find = Callable[..., str]


@pytest.fixture(scope="module")
def find() -> Iterator[Find]:
    """The document ids that fulfil all filters, as one word."""
    client = QdrantClient(":memory:")
    client.create_collection("c", vectors_config={})
    client.upsert(
        "c", [models.PointStruct(id=n, vector={}, payload=p) for n, p in enumerate(POINTS)]
    )

    def search(*filters: SearchFilter) -> str:
        points, _ = client.scroll("c", scroll_filter=qdrant_filter(filters))
        return "".join(sorted(point.payload["document_id"] for point in points))

    yield search
    client.close()


def where(field: str, operator: str = "equals", *values: Any, **bounds: Any) -> SearchFilter:
    return SearchFilter(field=field, operator=operator, values=values, **bounds)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (where("document_id", "equals", "a"), "a"),
        (where("title", "equals", "API"), "b"),
        (where("title", "equals", "api"), ""),  # case counts
        (where("language", "any_of", "en", "de"), "ab"),
        (where("language", "not", "en"), "bcd"),  # also where there is no language
        (where("language", "not", "en", "de"), "cd"),
        (where("media_type", "prefix", "text/"), "abc"),
        (where("source_uri", "prefix", "file:docs/"), "ab"),
        (where("heading", "equals", "Getting started"), "a"),  # any of the path
        (where("heading", "equals", "Guide"), "a"),
        (where("heading", "prefix", "A"), "b"),
        (where("metadata.tags", "equals", "blue"), "a"),  # any of a list
        (where("metadata.tags", "not", "blue"), "bcd"),
        (where("metadata.author.name", "equals", "Ada"), "c"),
        (where("metadata.odd key!", "equals", "x"), "c"),
        (where("metadata.nowhere", "equals", "x"), ""),
    ],
)
def test_operators_and_fields(find: Find, condition: SearchFilter, expected: str):
    assert find(condition) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [("2020", "ab"), (2020, "ab"), ("2020.5", "c"), ("2020.0", "a"), ("02020", ""), ("1e3", "")],
)
def test_a_value_finds_numbers_and_texts_that_are_written_like_it(find: Find, value, expected: str):
    assert find(where("metadata.year", "equals", value)) == expected


@pytest.mark.parametrize("value", ["true", True])
def test_true_finds_the_boolean_and_the_word(find: Find, value):
    assert find(where("metadata.draft", "equals", value)) == "ac"


def test_integers_beyond_a_floats_precision_are_told_apart(find: Find):
    assert find(where("metadata.big", "equals", 2**53 + 1)) == "d"
    assert find(where("metadata.big", "equals", 2**53 + 2)) == ""


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({"minimum": 2020}, "ac"),
        ({"maximum": 2020}, "ad"),  # inclusive
        ({"minimum": "1999", "maximum": "2020.25"}, "ad"),  # not the text "2020"
        ({"minimum": 3000}, ""),
    ],
)
def test_a_range_of_numbers_is_inclusive(find: Find, bounds: dict[str, Any], expected: str):
    assert find(where("metadata.year", "range", **bounds)) == expected


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({"minimum": "2020-05-02"}, "b"),
        ({"maximum": "2020-05-02"}, "ab"),  # the whole day
        ({"maximum": "2020-05-02T18:29:59+00:00"}, "a"),
        ({"maximum": "2020-05-02T20:30:00+02:00"}, "ab"),  # 18:30 in UTC
        ({"minimum": "2020-05-01", "maximum": "2020-05-01"}, "a"),
    ],
)
def test_a_range_of_dates(find: Find, bounds: dict[str, Any], expected: str):
    assert find(where("metadata.date", "range", **bounds)) == expected


def test_all_filters_must_hold(find: Find):
    assert find(where("language", "not", "de"), where("metadata.year", "equals", 2020)) == "a"
    assert find(where("language", "equals", "en"), where("language", "equals", "de")) == ""


def test_no_filters_are_no_condition():
    assert qdrant_filter(()) is None


def test_which_points_have_a_field():
    client = QdrantClient(":memory:")
    client.create_collection("c", vectors_config={})
    payloads = [{"metadata": {"a b": 1}}, {"metadata": {"a b": []}}, {"metadata": {}}, {}]
    client.upsert(
        "c", [models.PointStruct(id=n, vector={}, payload=p) for n, p in enumerate(payloads)]
    )
    points, _ = client.scroll("c", scroll_filter=has_field("metadata.a b"))
    client.close()
    assert [point.id for point in points] == [0]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"field": "yaer", "values": ["x"]}, "there is no field 'yaer' to filter on; there are"),
        ({"field": "metadata.", "values": ["x"]}, "there is no field 'metadata.'"),
        ({"field": 'metadata.a"b', "values": ["x"]}, "there is no field"),
        ({"field": "text", "values": ["x"]}, "there is no field 'text'"),
        ({"field": "title"}, "equals needs a value"),
        ({"field": "title", "values": ["a", "b"]}, "takes one value, not 2; see any_of"),
        ({"field": "title", "operator": "prefix", "values": ["a", "b"]}, "takes one value"),
        ({"field": "title", "values": ["a"], "minimum": "1"}, "belong to range, not to equals"),
        ({"field": "title", "operator": "range"}, "range needs a minimum or a maximum"),
        ({"field": "title", "operator": "range", "values": ["1"]}, "takes minimum and maximum"),
        ({"field": "title", "operator": "range", "minimum": "soon"}, "neither a number nor a date"),
        ({"field": "title", "operator": "range", "minimum": "nan"}, "neither a number nor a date"),
        (
            {"field": "title", "operator": "range", "minimum": 1, "maximum": "2020-01-01"},
            "two numbers or two dates",
        ),
        ({"field": "title", "operator": "like", "values": ["x"]}, "'equals', 'any_of', 'not'"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(fields: dict[str, Any], words: str):
    with pytest.raises(ValidationError, match=words):
        RetrievalConfig.model_validate({"filters": [fields]})


def test_filters_travel_as_json():
    config = RetrievalConfig(
        filters=(where("metadata.year", "range", minimum=2020), where("language", "not", "en"))
    )
    assert RetrievalConfig.model_validate_json(config.model_dump_json()) == config
    assert config.output_config()["filters"][0]["minimum"] == "2020"
