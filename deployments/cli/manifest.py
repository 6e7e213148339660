"""`raftline manifest`: a training as objects of Kubernetes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        epilog="[bold]Example:[/bold] raftline manifest --config finetune.yaml --kind trainjob "
        "--image registry/raftline-gpu:1 | kubectl apply -f -",
    )(manifest)


def manifest(
    image: Annotated[str, typer.Option(help="Of a GPU or CPU worker; see docker/.")],
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Configuration of the stage finetune, YAML or JSON: what the run form takes.",
        ),
    ] = None,
    kind: Annotated[
        str,
        typer.Option(help="trainjob (Kubeflow Trainer v2) or job (Indexed Job and Service)."),
    ] = "trainjob",
    name: Annotated[str, typer.Option(help="Pipeline whose model is made.")] = "demo",
    dataset: Annotated[
        str, typer.Option(metavar="REF", help="Dataset: an alias, a fingerprint, or kind/name@…")
    ] = "latest",
    job_name: Annotated[
        str | None, typer.Option(help="Of the job; the pipeline's name and '-training' without it.")
    ] = None,
    namespace: Annotated[str | None, typer.Option(help="Left to kubectl without it.")] = None,
    gpus: Annotated[
        int | None,
        typer.Option(min=0, help="Per node; as many as ranks without it, 0 for CPUs only."),
    ] = None,
    cpus: Annotated[str, typer.Option(help="Per node.")] = "8",
    memory: Annotated[str, typer.Option(help="Per node.")] = "64Gi",
    credentials: Annotated[
        str, typer.Option(help="Secret whose keys are RAFTLINE_S3_ENDPOINT_URL and its kin.")
    ] = "raftline",
) -> None:
    """Write the manifests of a training on a cluster.

    The dataset must be there: its fingerprint is written down, so that a restart trains on the
    same. Nothing secret is written; the pods take the credentials from that Secret.
    """
    from typing import get_args

    from deployments.cli.configuration import read_config_file, validated
    from pipeline_lib.artifacts.store import ArtifactStore
    from pipeline_lib.config import FinetuneConfig
    from pipeline_lib.errors import ConfigError
    from pipeline_lib.settings import load_settings
    from pipeline_lib.training.joining import TrainingOrder
    from pipeline_lib.training.kubernetes import ClusterOptions, Kind, render
    from tasks.references import full_reference

    if kind not in get_args(Kind):
        raise ConfigError(
            f"There is no kind {kind!r} of manifest", hint="One of: " + ", ".join(get_args(Kind))
        )
    values = _without_places(read_config_file(config) if config else {})
    chosen = validated(FinetuneConfig, values, str(config or "manifest"))
    store = ArtifactStore(load_settings())
    order = TrainingOrder(
        name=name,
        config=chosen,
        dataset=store.resolve(full_reference("dataset", name, dataset)),
        previous=store.resolve(full_reference("model", name, chosen.continue_from))
        if chosen.continue_from
        else None,
    )
    options = ClusterOptions(
        name=job_name or f"{name}-training",
        image=image,
        namespace=namespace,
        gpus=chosen.launch.num_processes if gpus is None else gpus,
        cpus=cpus,
        memory=memory,
        credentials=credentials,
    )
    typer.echo(render(order, options, kind), nl=False)  # type: ignore[arg-type]


def _without_places(values: dict[str, Any]) -> dict[str, Any]:
    """The configuration before a cluster says where its nodes meet."""
    launch = values.get("launch") or {}
    places = {"launcher": "torchrun", "hostfile": None, "address": "node-0:29500"}
    return {**values, "launch": {**launch, **places}}
