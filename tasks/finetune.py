"""The task of the stage `finetune`, here or as a run of a deployment elsewhere."""

from __future__ import annotations

from typing import Any, cast

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.utilities.urls import url_for

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.artifacts.store import CHAMPION
from pipeline_lib.config import FinetuneConfig
from pipeline_lib.errors import ConfigError, TrainingError
from pipeline_lib.stage import StageResult
from pipeline_lib.training import stage
from pipeline_lib.training.card import CARD_FILE
from tasks.presentation import publish_counts, publish_training
from tasks.references import full_reference, resolve
from tasks.remote import await_run, read_result
from tasks.runtime import log_counts, open_workspace, stage_task


# For those who limit how many trainings run at once, across deployments.
@stage_task(name="finetune", tags=["gpu"], description="Dataset and base model to new model.")
def finetune(
    name: str, config: FinetuneConfig, dataset: ArtifactRef, previous: ArtifactRef | None = None
) -> StageResult:
    """Make the artifact `model`; see `pipeline_lib.training.stage.finetune`.

    Call it directly, never with `.submit`: a cancellation interrupts the main thread only, and
    only from there does it end the training processes at once.
    """
    with open_workspace() as ws:

        def publish(result: StageResult) -> None:
            log_counts(result)
            publish_counts(result)
            card = ws.artifacts.file(ws.artifacts.manifest(result.ref), CARD_FILE)
            if card is not None:
                publish_training(result, card.parent)

        return stage.finetune(ws, name, config, dataset, previous, on_stage=publish)


def model_to_continue(name: str, config: FinetuneConfig) -> ArtifactRef | None:
    """The model that `config.continue_from` names; `None` where there is no champion yet.

    The first run of a schedule has none to go on from: it starts from the base model.

    Raises:
        ArtifactNotFoundError: it names anything else that is not there.
    """
    if config.continue_from is None:
        return None
    reference = full_reference("model", name, config.continue_from)
    is_champion = reference.endswith(f"@{CHAMPION}")
    found = resolve({"previous": reference}, optional=("previous",) if is_champion else ())
    if "previous" not in found:
        get_run_logger().info("%s is not there yet: starting from the base model", reference)
        return None
    get_run_logger().info("Continuing from %s", found["previous"])
    return found["previous"]


def finetune_elsewhere(
    deployment: str, name: str, config: FinetuneConfig, dataset: ArtifactRef
) -> StageResult:
    """Train as a run of `deployment` (another work pool, another machine) and wait for its end.

    The run appears as a subflow of the calling flow run. However the waiting ends before the run
    does, above all by cancellation, the run is cancelled too. Trying the calling flow run again
    starts a new run, which reuses a finished model.

    Raises:
        ConfigError: there is no such deployment.
        TrainingError: the run did not complete; carries the message of its last state.
    """
    context = FlowRunContext.get()
    parent = context.flow_run if context else None
    key = f"{parent.id}-{parent.run_count}" if parent else None
    parameters: dict[str, Any] = {
        "name": name,
        "dataset": str(dataset),
        "config": config.model_dump(mode="json"),
    }
    try:
        run = cast(
            FlowRun,
            run_deployment(deployment, parameters=parameters, timeout=0, idempotency_key=key),
        )
    except ObjectNotFound as error:
        raise ConfigError(
            f"There is no deployment {deployment!r} to train on",
            hint="Set finetune_deployment to 'flow/deployment', for example 'finetune/finetune'.",
        ) from error
    place = url_for(run) or run.id
    logger = get_run_logger()
    logger.info("Training as a run of %s: %s", deployment, place)
    with get_client(sync_client=True) as client:
        state = await_run(client, run.id, logger)
        if not state.is_completed():
            raise TrainingError(
                f"The run {run.name!r} of {deployment} ended {state.name}: {state.message}",
                hint=f"Its log is at {place}.",
            )
        return read_result(client, run.id, StageResult)
