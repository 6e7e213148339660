"""`raftline search`: what an index finds, and why it ranks it so."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deployments.cli.console import stderr_console, stdout_console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from pipeline_lib.config import RetrievalConfig
    from pipeline_lib.retrieval.search import Hit, Searcher

_FILTER = re.compile(r"(?P<field>[^!^<>=]+)(?P<operator>!=|\^=|>=|<=|=)(?P<value>.*)", re.DOTALL)
_OPERATORS = {"!=": "not", "^=": "prefix"}
_BOUNDS = {">=": "minimum", "<=": "maximum"}
_SUFFIXES = {1: "st", 2: "nd", 3: "rd"}
_INDENT = "    "
_TO = "–"  # noqa: RUF001
_UNDER = " › "  # noqa: RUF001


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog='[bold]Example:[/bold] raftline search "context manager" '
        "--filter language=en --expand section",
    )(search)


def search(
    query: Annotated[str, typer.Argument(help="What to look for, in quotes.")],
    name: Annotated[str, typer.Option(help="Pipeline whose latest index is searched.")] = "demo",
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Most results.")] = 5,
    mode: Annotated[
        Literal["hybrid", "dense", "sparse"], typer.Option(help="Which vectors answer.")
    ] = "hybrid",
    fusion: Annotated[
        Literal["dbsf", "rrf"],
        typer.Option(help="How hybrid search joins dense and sparse results: by scores or ranks."),
    ] = "dbsf",
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="FIELD=VALUE",
            help="Only chunks whose field has the value; also !=, ^= (begins with), >= and <=. "
            "Fields: document_id, source_uri, title, language, media_type, heading, "
            "metadata.<key>. May be repeated: all must hold, except that several = for one field "
            "are alternatives.",
        ),
    ] = None,
    mmr: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="LAMBDA",
            help="Maximal marginal relevance: the lower, the less results repeat each other; "
            "0.5 is a fair start.",
        ),
    ] = None,
    rerank: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="CrossEncoder that reranks: hub id, folder or s3://…"),
    ] = None,
    expand: Annotated[
        Literal["neighbours", "section"] | None,
        typer.Option(help="Show what surrounds each chunk in its document."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what an index finds for a query, with each result's score and rank per branch.

    Words that share a BM25 term with the query are highlighted.
    """
    from deployments.cli.configuration import validated
    from pipeline_lib.config import RetrievalConfig
    from pipeline_lib.errors import ConfigError

    if not query.strip():
        raise ConfigError("The query is empty", hint='Try: raftline search "context manager"')
    values: dict[str, Any] = {"mode": mode, "fusion": fusion, "filters": parse_filters(filters)}
    if mmr is not None:
        values["mmr_lambda"] = mmr
    if rerank is not None:
        values["rerank"] = {"model": rerank}
    if expand is not None:
        values["expand"] = {"unit": expand}
    found = _search(name, query, limit, validated(RetrievalConfig, values, "search"))
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=1, ensure_ascii=False))
    else:
        _print(stdout_console(), found)


@dataclass(frozen=True)
class Found:
    """What there is to show."""

    query: str
    index: str
    hits: Sequence[Hit]
    highlights: Sequence[Sequence[tuple[int, int]]]
    """For each hit, start and end of the query's words in its text."""
    sizes: Mapping[str, int]
    """Document id to its number of chunks, where that was counted."""
    remarks: Sequence[str]
    """What may be the reason where nothing was found."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        hits = [
            {**asdict(hit), "highlights": spans, "num_document_chunks": self._size(hit)}
            for hit, spans in zip(self.hits, self.highlights, strict=True)
        ]
        return {"query": self.query, "index": self.index, "hits": hits}

    def place(self, hit: Hit) -> str:
        """Where the passage lies in its document, counting chunks from 1."""
        covered = hit.covered_ids or (hit.chunk_id,)
        first = hit.ordinal - covered.index(hit.chunk_id) + 1
        last = first + len(covered) - 1
        chunks = f"chunk {first:,}" if first == last else f"chunks {first:,}{_TO}{last:,}"
        total = self._size(hit)
        whole = f" of {total:,}" if total else ""
        return f"{chunks}{whole}, characters {hit.start:,}{_TO}{hit.end:,}"

    def _size(self, hit: Hit) -> int | None:
        return self.sizes.get(hit.document_id)


def parse_filters(options: Iterable[str] | None) -> list[dict[str, Any]]:
    """Filters from `field=value` and its kin.

    Several `=` for one field become alternatives, `>=` and `<=` for one field a range.

    Raises:
        ConfigError: an option has another form.
    """
    from pipeline_lib.errors import ConfigError

    equal: dict[str, list[str]] = {}
    ranges: dict[str, dict[str, str]] = {}
    others: list[dict[str, Any]] = []
    for option in options or ():
        match = _FILTER.fullmatch(option)
        if match is None:
            raise ConfigError(
                f"--filter {option!r} is not of the form field=value",
                hint="Write for example: --filter language=en, --filter source_uri^=file:docs/ or "
                "--filter 'metadata.year>=2020'",
            )
        field, operator, value = match["field"].strip(), match["operator"], match["value"]
        if operator == "=":
            equal.setdefault(field, []).append(value)
        elif operator in _BOUNDS:
            ranges.setdefault(field, {})[_BOUNDS[operator]] = value
        else:
            others.append({"field": field, "operator": _OPERATORS[operator], "values": [value]})
    return [
        *({"field": f, "operator": "any_of", "values": values} for f, values in equal.items()),
        *({"field": f, "operator": "range", **bounds} for f, bounds in ranges.items()),
        *others,
    ]


def _search(name: str, query: str, limit: int, config: RetrievalConfig) -> Found:
    from deployments.cli.progress import RichProgress
    from pipeline_lib.retrieval.search import Searcher, latest_index
    from pipeline_lib.retrieval.store import VectorStore
    from pipeline_lib.stage import Workspace

    ws = Workspace.open(RichProgress(stderr_console(), is_transient=True))
    index = latest_index(ws, name)
    searcher = Searcher.open(ws, index)
    # One block around all questions, as each opening of a local folder reads the whole of it.
    with VectorStore(ws.settings, "raftline search", ws.progress):
        [hits] = searcher.search([query], limit=limit, config=config)
        sizes = searcher.document_sizes({hit.document_id for hit in hits})
        remarks = [] if hits else _remarks(searcher, config)
    return Found(
        query=query,
        index=str(index),
        hits=hits,
        highlights=[searcher.highlights(query, hit.text) for hit in hits],
        sizes=sizes,
        remarks=remarks,
    )


def _remarks(searcher: Searcher, config: RetrievalConfig) -> list[str]:
    fields = searcher.fields_without_values([each.field for each in config.filters])
    remarks = [f"No chunk has a value in {field}." for field in fields]
    if config.mode == "sparse":
        remarks.append(
            "Sparse search finds chunks that share a word with the query; stop words do not count."
        )
    return remarks


def _print(console: Console, found: Found) -> None:
    if not found.hits:
        _print_nothing(console, found)
    for number, (hit, spans) in enumerate(zip(found.hits, found.highlights, strict=True)):
        if number:
            console.print()
        _print_hit(console, found, hit, spans)


def _print_nothing(console: Console, found: Found) -> None:
    from rich.text import Text

    console.print(Text(f"Nothing in {found.index} matches.", style="yellow"))
    for remark in found.remarks:
        console.print(Text(remark))


def _print_hit(console: Console, found: Found, hit: Hit, spans: Sequence[tuple[int, int]]) -> None:
    from rich.text import Text

    heading = Text(f"{hit.rank:>2}. ", style="bold")
    heading.append(hit.title or hit.source_uri, style="bold cyan")
    path = hit.heading_path[1:] if hit.heading_path[:1] == (hit.title,) else hit.heading_path
    heading.append("".join(_UNDER + part for part in path), style="cyan")
    console.print(heading)
    origin = [hit.source_uri, *hit.places, found.place(hit)]
    for part in (Text(" · ".join(origin), style="dim"), _scores(hit), _marked(hit.text, spans)):
        for line in part.wrap(console, console.width - len(_INDENT)):
            line.rstrip()
            console.print(Text(_INDENT) + line if line else line)


def _scores(hit: Hit) -> Text:
    """`score 1.21 · dense 0.612 (1st) · BM25 8.31 (2nd)`, with a dash for who did not find it."""
    from rich.text import Text

    parts = [f"score {hit.score:.4g}"]
    if hit.rerank_score is not None and hit.fused_score is not None:
        parts.append(f"fused {hit.fused_score:.4g}")
    branches = (
        ("dense", hit.dense_score, hit.dense_rank),
        ("BM25", hit.sparse_score, hit.sparse_rank),
    )
    for name, score, rank in branches:
        if score is not None and rank is not None:
            parts.append(f"{name} {score:.4g} ({_ordinal(rank)})")
        elif hit.fused_score is not None:
            parts.append(f"{name} {_TO}")
    return Text(" · ".join(parts), style="green")


def _ordinal(number: int) -> str:
    suffix = "th" if number % 100 in (11, 12, 13) else _SUFFIXES.get(number % 10, "th")
    return f"{number:,}{suffix}"


def _marked(text: str, spans: Iterable[tuple[int, int]]) -> Text:
    from rich.text import Text

    marked = Text(text)
    for start, end in spans:
        marked.stylize("bold yellow", start, end)
    marked.rstrip()
    return marked
