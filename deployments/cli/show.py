"""`raftline show`: what has been made, from what, and what was made of it."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from deployments.cli.console import duration, stdout_console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.tree import Tree

    from pipeline_lib.artifacts.manifest import ArtifactRef, Manifest
    from pipeline_lib.artifacts.store import ArtifactStore
    from pipeline_lib.raft.dataset.lineage import DatasetUse, DocumentUse

_SHORT = 8
_SHOWN_COUNTS = 4
_SHOWN_ROWS = 20


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog="[bold]Example:[/bold] raftline show model/demo@champion, or: "
        "raftline show --document handbook.pdf",
    )(show)


def show(
    reference: Annotated[
        str | None,
        typer.Argument(
            metavar="REF",
            help="kind/name@alias, or kind/name/ and a fingerprint or its first digits. "
            "Without it, all artifacts are listed.",
        ),
    ] = None,
    document: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="A document, by its URI, the end of it, or its id: "
            "which rows of which datasets, and which models, saw it.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List all artifacts, or show one: its manifest, and its lineage up and down."""
    from pipeline_lib.artifacts.store import ArtifactStore
    from pipeline_lib.settings import load_settings

    if reference is not None and document is not None:
        raise typer.BadParameter("give an artifact or --document, not both")
    store = ArtifactStore(load_settings())
    if document is not None:
        _show_document(store, document, as_json=as_json)
        return
    manifests = sorted(store.manifests(), key=lambda m: m.finished_at)
    aliases = _aliases(store, manifests)
    if reference is None:
        if as_json:
            typer.echo(json.dumps([_summary(store, m, aliases) for m in manifests], indent=1))
        else:
            _print_list(stdout_console(), manifests, aliases)
        return
    manifest = store.manifest(store.resolve(reference))
    lineage = Lineage(manifests)
    if as_json:
        typer.echo(json.dumps(_details(store, manifest, aliases, lineage), indent=1))
    else:
        _print_one(stdout_console(), store, manifest, aliases, lineage)


class Lineage:
    """Who was made from whom, among complete artifacts."""

    def __init__(self, manifests: Iterable[Manifest]) -> None:
        self._inputs: dict[str, dict[str, ArtifactRef]] = {}
        self._children: dict[str, list[tuple[str, ArtifactRef]]] = defaultdict(list)
        for manifest in manifests:
            self._inputs[manifest.ref.key] = manifest.input_refs
            for role, ref in manifest.input_refs.items():
                self._children[ref.key].append((role, manifest.ref))

    def inputs(self, key: str) -> list[tuple[str, ArtifactRef]]:
        """Role and artifact: one step up."""
        return sorted(self._inputs.get(key, {}).items())

    def children(self, key: str) -> list[tuple[str, ArtifactRef]]:
        """Role played there, and artifact: one step down."""
        return self._children.get(key, [])

    def is_known(self, key: str) -> bool:
        """Whether the artifact is (still) in the store."""
        return key in self._inputs


def _aliases(store: ArtifactStore, manifests: Iterable[Manifest]) -> dict[str, list[str]]:
    """Artifact key to its aliases."""
    found: dict[str, list[str]] = defaultdict(list)
    for kind, name in sorted({(m.ref.kind, m.ref.name) for m in manifests}):
        for alias, ref in store.aliases.of(kind, name).items():
            found[ref.key].append(alias)
    return found


def _summary(
    store: ArtifactStore, manifest: Manifest, aliases: Mapping[str, list[str]]
) -> dict[str, Any]:
    return {
        "ref": manifest.ref.key,
        "uri": store.uri(manifest.ref),
        "aliases": aliases.get(manifest.ref.key, []),
        "finished_at": manifest.finished_at.isoformat(),
        "counts": manifest.counts,
    }


def _details(
    store: ArtifactStore,
    manifest: Manifest,
    aliases: Mapping[str, list[str]],
    lineage: Lineage,
) -> dict[str, Any]:
    key = manifest.ref.key
    return {
        **_summary(store, manifest, aliases),
        "manifest": manifest.model_dump(mode="json"),
        "made_from": {role: ref.key for role, ref in lineage.inputs(key)},
        "used_for": [ref.key for _, ref in lineage.children(key)],
    }


def _print_list(
    console: Console, manifests: list[Manifest], aliases: Mapping[str, list[str]]
) -> None:
    from rich.table import Table

    if not manifests:
        console.print("There are no artifacts yet. Make some: [bold]raftline demo[/bold]")
        return
    table = Table("kind", "name", "fingerprint", "created (UTC)", "counts", "aliases", box=None)
    for manifest in manifests:
        counts = list(manifest.counts.items())
        shown = ", ".join(f"{_words(name)} {count:,}" for name, count in counts[:_SHOWN_COUNTS])
        table.add_row(
            manifest.ref.kind,
            manifest.ref.name,
            manifest.ref.fingerprint[:_SHORT],
            f"{manifest.finished_at:%Y-%m-%d %H:%M}",
            shown + (" …" if len(counts) > _SHOWN_COUNTS else ""),
            ", ".join(aliases.get(manifest.ref.key, [])),
        )
    console.print(table)
    last = manifests[-1].ref
    console.print(
        f"\nOne of them: [bold]raftline show {last.kind}/{last.name}/"
        f"{last.fingerprint[:_SHORT]}[/bold]"
    )


def _print_one(
    console: Console,
    store: ArtifactStore,
    manifest: Manifest,
    aliases: Mapping[str, list[str]],
    lineage: Lineage,
) -> None:
    from rich.json import JSON

    key = manifest.ref.key
    names = ", ".join(aliases.get(key, []))
    console.print(f"[bold]{key}[/bold]" + (f"  ({names})" if names else ""), soft_wrap=True)
    console.print(store.uri(manifest.ref), soft_wrap=True)
    seconds = (manifest.finished_at - manifest.started_at).total_seconds()
    console.print(
        f"stage {manifest.stage} (version {manifest.stage_version}), code {manifest.code_version}, "
        f"finished {manifest.finished_at:%Y-%m-%d %H:%M:%S} UTC after {duration(seconds)}",
        soft_wrap=True,
    )
    _print_numbers(console, "counts", manifest.counts)
    _print_numbers(console, "dropped, by reason", manifest.dropped)
    _print_numbers(console, "metrics", manifest.metrics)
    _print_numbers(console, "ledger", manifest.ledger)
    _print_files(console, manifest)
    console.print("\n[bold]configuration[/bold]")
    console.print(JSON.from_data(manifest.config, indent=1))
    console.print("\n[bold]made from[/bold]")
    console.print(_tree_up(manifest.ref, lineage, manifest.inputs))
    console.print("\n[bold]used for[/bold]")
    console.print(_tree_down(manifest.ref, lineage))


def _show_document(store: ArtifactStore, document: str, *, as_json: bool) -> None:
    from pipeline_lib.raft.dataset.lineage import rows_of_document

    use = rows_of_document(store, document)
    if as_json:
        typer.echo(json.dumps(_document_details(use), indent=1))
    else:
        _print_document(stdout_console(), use)


def _document_details(use: DocumentUse) -> dict[str, Any]:
    return {
        "document_id": use.document_id,
        "source_uri": use.source_uri,
        "models": [model.key for model in use.models],
        "datasets": [
            {
                "ref": each.dataset.key,
                "models": [model.key for model in each.models],
                "rows": [asdict(row) for row in each.rows],
            }
            for each in use.datasets
        ],
        "num_unrecorded_datasets": use.num_unrecorded,
    }


def _print_document(console: Console, use: DocumentUse) -> None:
    console.print(f"[bold]{escape(use.source_uri)}[/bold]", soft_wrap=True)
    console.print(f"document {use.document_id}")
    if not use.datasets:
        console.print("\nIt is in no dataset.")
    for each in use.datasets:
        _print_dataset_use(console, each)
    if use.num_unrecorded:
        console.print(
            f"\n{use.num_unrecorded} older datasets keep no record of their documents and were "
            "not looked at."
        )
    models = ", ".join(_short(model) for model in use.models) or "none"
    console.print(f"\n[bold]models trained on it:[/bold] {models}", soft_wrap=True)


def _print_dataset_use(console: Console, use: DatasetUse) -> None:
    from rich.table import Table

    versions = ", ".join(sorted({row.content_sha256[:_SHORT] for row in use.rows}))
    counts = Counter(row.use.replace("_", " ") for row in use.rows)
    shown = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))
    console.print(f"\n[bold]{_short(use.dataset)}[/bold]  text {versions}…  ({shown})")
    table = Table("split", "task", "use", "row", "question", box=None, padding=(0, 2))
    for row in use.rows[:_SHOWN_ROWS]:
        table.add_row(
            row.split,
            row.task,
            row.use.replace("_", " "),
            row.row_id[:_SHORT],
            escape(row.question),
        )
    console.print(table)
    if len(use.rows) > _SHOWN_ROWS:
        console.print(f"  … {len(use.rows) - _SHOWN_ROWS:,} more; --json prints all")


def _print_numbers(console: Console, title: str, numbers: Mapping[str, float]) -> None:
    from rich.table import Table

    if not numbers:
        return
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    for name, value in numbers.items():
        is_whole = isinstance(value, int) or abs(value) >= 1000
        table.add_row(_words(name), f"{value:,.0f}" if is_whole else f"{value:.4g}")
    console.print(f"\n[bold]{title}[/bold]")
    console.print(table)


def _print_files(console: Console, manifest: Manifest) -> None:
    from rich.filesize import decimal
    from rich.table import Table

    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_column(overflow="fold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    for file in manifest.files:
        table.add_row(file.path, decimal(file.size_bytes), f"sha256 {file.sha256[:16]}…")
    console.print("\n[bold]files[/bold]")
    console.print(table)


def _tree_up(ref: ArtifactRef, lineage: Lineage, inputs: Mapping[str, str]) -> Tree:
    from rich.tree import Tree

    tree = Tree(_short(ref))
    artifacts = dict(lineage.inputs(ref.key))
    for role, value in inputs.items():
        if role not in artifacts:
            tree.add(f"{_words(role)}: [dim]{value}[/dim]")

    shown: set[str] = set()

    def grow(branch: Tree, key: str) -> None:
        for role, parent in lineage.inputs(key):
            remark = "" if lineage.is_known(parent.key) else " [red](no longer in the store)[/red]"
            if parent.key in shown:
                branch.add(f"{_words(role)}: {_short(parent)} [dim](see above)[/dim]")
                continue
            shown.add(parent.key)
            grow(branch.add(f"{_words(role)}: {_short(parent)}{remark}"), parent.key)

    grow(tree, ref.key)
    return tree


def _tree_down(ref: ArtifactRef, lineage: Lineage) -> Tree:
    from rich.tree import Tree

    tree = Tree(_short(ref))

    def grow(branch: Tree, key: str) -> None:
        for role, child in lineage.children(key):
            grow(branch.add(f"{_short(child)} [dim](as {_words(role)})[/dim]"), child.key)

    grow(tree, ref.key)
    return tree


def _short(ref: ArtifactRef) -> str:
    return f"{ref.kind}/{ref.name}/{ref.fingerprint[:_SHORT]}"


def _words(name: str) -> str:
    return name.removeprefix("num_").replace("_", " ")
