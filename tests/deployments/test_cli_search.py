"""`raftline search`: what was found, where it stands, and why it ranks as it does."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

import pytest
from typer.testing import CliRunner

from deployments.cli.main import app
from deployments.cli.search import parse_filters
from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import RetrievalConfig
from pipeline_lib.errors import ConfigError
from pipeline_lib.retrieval import search as search_module
from pipeline_lib.retrieval.hits import Hit

runner = CliRunner()

INDEX = ArtifactRef(kind="index", name="demo", fingerprint="0" * 32)
TEXT = "The with statement wraps a block.\n\n    with open(path) as file:"


def hit(**fields: Any) -> Hit:
    values: dict[str, Any] = {
        "chunk_id": "c3",
        "document_id": "d1",
        "title": "Compound statements",
        "source_uri": "file:compound.md",
        "text": TEXT,
        "start": 120,
        "end": 1480,
        "rank": 1,
        "score": 1.23456,
        "dense_score": 0.61234,
        "dense_rank": 1,
        "sparse_score": 12.3456,
        "sparse_rank": 2,
        "fused_score": 1.23456,
        "ordinal": 2,
        "heading_path": ("Compound statements", "The with statement"),
        "places": ("page 3",),
    }
    return Hit(**values | fields)


class FakeSearcher:
    """Finds what it was given, and remembers what it was asked."""

    def __init__(self, hits: Sequence[Hit]) -> None:
        self.hits = list(hits)
        self.queries: list[str] = []
        self.limit = 0
        self.config = RetrievalConfig()

    def search(self, queries, *, limit: int, config: RetrievalConfig) -> list[list[Hit]]:
        self.queries, self.limit, self.config = list(queries), limit, config
        return [self.hits]

    def document_sizes(self, document_ids: Collection[str]) -> dict[str, int]:
        return dict.fromkeys(document_ids, 12)

    def fields_without_values(self, fields: Sequence[str]) -> list[str]:
        return [field for field in fields if field.startswith("metadata.")]

    def highlights(self, query: str, text: str) -> list[tuple[int, int]]:
        return [(4, 8)]


@pytest.fixture
def find(settings, monkeypatch: pytest.MonkeyPatch):
    """Has the index find these hits."""

    def prepare(*hits: Hit) -> FakeSearcher:
        searcher = FakeSearcher(hits)
        monkeypatch.setattr(search_module, "latest_index", lambda ws, name: INDEX)
        monkeypatch.setattr(search_module.Searcher, "open", lambda ws, index: searcher)
        return searcher

    return prepare


def test_a_result_says_what_where_and_why(find) -> None:
    find(hit(), hit(chunk_id="c9", rank=2, title="", heading_path=(), places=(), dense_rank=None))
    result = runner.invoke(app, ["search", "with statement"])
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [
        " 1. Compound statements › The with statement",  # noqa: RUF001
        "    file:compound.md · page 3 · chunk 3 of 12, characters 120–1,480",  # noqa: RUF001
        "    score 1.235 · dense 0.6123 (1st) · BM25 12.35 (2nd)",
        "    The with statement wraps a block.",
        "",
        "        with open(path) as file:",
        "",
        " 2. file:compound.md",
        "    file:compound.md · chunk 3 of 12, characters 120–1,480",  # noqa: RUF001
        "    score 1.235 · dense – · BM25 12.35 (2nd)",  # noqa: RUF001
        "    The with statement wraps a block.",
        "",
        "        with open(path) as file:",
    ]


def test_an_expanded_passage_names_all_its_chunks(find) -> None:
    find(hit(covered_ids=("c2", "c3", "c4")))
    output = runner.invoke(app, ["search", "with", "--expand", "neighbours"]).stdout
    assert "chunks 2–4 of 12, characters 120–1,480" in output  # noqa: RUF001


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"rerank_score": 4.5, "score": 4.5}, "score 4.5 · fused 1.235 · dense 0.6123 (1st)"),
        ({"fused_score": None, "sparse_rank": None}, "score 1.235 · dense 0.6123 (1st)\n"),
        ({"dense_rank": 11, "sparse_rank": 23}, "dense 0.6123 (11th) · BM25 12.35 (23rd)"),
    ],
)
def test_scores_of_what_took_part(find, fields: dict[str, Any], line: str) -> None:
    find(hit(**fields))
    assert line in runner.invoke(app, ["search", "with"]).stdout


@pytest.mark.parametrize("columns", [80, 120])
def test_lines_fit_the_terminal_and_have_no_trailing_space(
    find, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    find(hit(text="word " * 100 + "東京都は日本の首都です。" * 20 + "שלום עולם " * 30))
    lines = runner.invoke(app, ["search", "with"]).stdout.splitlines()
    from rich.cells import cell_len

    assert max(map(cell_len, lines)) <= columns
    assert all(line == line.rstrip() for line in lines)


def test_matches_are_highlighted_in_a_terminal(find, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    find(hit())
    assert "The \x1b[1;33mwith\x1b[0m statement" in runner.invoke(app, ["search", "with"]).stdout


def test_options_become_a_configuration(find) -> None:
    searcher = find(hit())
    arguments = ["--limit", "7", "--mode", "sparse", "--fusion", "rrf", "--mmr", "0.5"]
    arguments += ["--rerank", "models/ce", "--expand", "section", "--filter", "language=en"]
    assert runner.invoke(app, ["search", "with", *arguments]).exit_code == 0
    assert (searcher.queries, searcher.limit) == (["with"], 7)
    assert searcher.config == RetrievalConfig.model_validate(
        {
            "mode": "sparse",
            "fusion": "rrf",
            "mmr_lambda": 0.5,
            "rerank": {"model": "models/ce"},
            "expand": {"unit": "section"},
            "filters": [{"field": "language", "operator": "any_of", "values": ["en"]}],
        }
    )


def test_without_options_the_search_is_that_of_every_stage(find) -> None:
    searcher = find(hit())
    runner.invoke(app, ["search", "with"])
    assert (searcher.config, searcher.limit) == (RetrievalConfig(), 5)


def test_nothing_found_names_filtered_fields_that_nobody_has(find) -> None:
    find()
    arguments = ["--filter", "metadata.yaer=2020", "--filter", "title=x"]
    result = runner.invoke(app, ["search", "with", *arguments])
    assert result.exit_code == 0
    assert result.stdout == f"Nothing in {INDEX} matches.\nNo chunk has a value in metadata.yaer.\n"


def test_sparse_search_that_finds_nothing_says_what_it_looks_for(find) -> None:
    find()
    output = runner.invoke(app, ["search", "the of", "--mode", "sparse"]).stdout
    assert "stop words do not count" in output


def test_json_is_nothing_but_json(find) -> None:
    find(hit(metadata={"year": 2020}, text="שלום"))
    answer = json.loads(runner.invoke(app, ["search", "with", "--json"]).stdout)
    assert (answer["query"], answer["index"]) == ("with", str(INDEX))
    [result] = answer["hits"]
    assert result["highlights"] == [[4, 8]]
    assert result["num_document_chunks"] == 12
    assert (result["text"], result["dense_rank"], result["metadata"]) == ("שלום", 1, {"year": 2020})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (None, []),
        (["title=a=b"], [{"field": "title", "operator": "any_of", "values": ["a=b"]}]),
        (
            ["language=en", "language=de"],
            [{"field": "language", "operator": "any_of", "values": ["en", "de"]}],
        ),
        (["title!=x"], [{"field": "title", "operator": "not", "values": ["x"]}]),
        (["heading^=Gu"], [{"field": "heading", "operator": "prefix", "values": ["Gu"]}]),
        (
            ["metadata.year>=2000", "metadata.year<=2010"],
            [
                {
                    "field": "metadata.year",
                    "operator": "range",
                    "minimum": "2000",
                    "maximum": "2010",
                }
            ],
        ),
    ],
)
def test_filter_options(options: list[str] | None, expected: list[dict[str, Any]]) -> None:
    assert parse_filters(options) == expected
    RetrievalConfig.model_validate({"filters": expected})


@pytest.mark.parametrize("option", ["title", "=x", "title>3", ""])
def test_a_filter_of_another_form_is_an_error(option: str) -> None:
    with pytest.raises(ConfigError, match="is not of the form field=value"):
        parse_filters([option])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", " "], "error: The query is empty\nhint: Try: raftline search"),
        (["search", "x", "--filter", "yaer=1"], "there is no field 'yaer' to filter on"),
        (["search", "x", "--filter", "yaer"], "is not of the form field=value\nhint: Write"),
        (["search", "x"], "error: There is no index 'demo' to search in\nhint: Run the ingest"),
        (["search", "x", "--mmr", "2"], "than or equal to 1"),
    ],
)
def test_errors_are_one_line_and_a_hint(settings, arguments: list[str], message: str) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code != 0
    assert message in result.stderr
    assert result.stdout == ""
