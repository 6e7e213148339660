"""Which embedding model a pipeline's index is to be made with."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.artifacts.store import CHAMPION, LATEST
from pipeline_lib.config import IndexConfig
from pipeline_lib.errors import ConfigError
from pipeline_lib.models import ARTIFACT_PREFIX
from pipeline_lib.retrieval.schema import IndexRecord
from pipeline_lib.retriever.naming import retriever_name
from pipeline_lib.stage import Workspace

BASE_MODEL = "base_model"
"""Role of the base model's identity among a tuned retriever's inputs."""


class DatasetOrigin(BaseModel):
    """What a dataset was made from."""

    model_config = ConfigDict(frozen=True)

    corpus: ArtifactRef
    index: ArtifactRef


class ServingIndex(BaseModel):
    """The index that a pipeline is to search by."""

    model_config = ConfigDict(frozen=True)

    config: IndexConfig
    corpus: ArtifactRef


def origin_of(ws: Workspace, dataset: ArtifactRef) -> DatasetOrigin:
    """The corpus and the index that a dataset was made from.

    Raises:
        ConfigError: its manifest does not name them.
    """
    inputs = ws.artifacts.manifest(dataset).input_refs
    if "corpus" not in inputs or "index" not in inputs:
        raise ConfigError(
            f"{dataset} does not say which corpus and index it was made from",
            hint="A retriever is tuned on datasets of the stage 'synthesize'.",
        )
    return DatasetOrigin(corpus=inputs["corpus"], index=inputs["index"])


def retriever_in_service(ws: Workspace, name: str, untuned: ArtifactRef) -> ArtifactRef | None:
    """The champion that an index should be made with; `None`: the untuned model serves.

    Args:
        ws: live services.
        name: the pipeline's name.
        untuned: an index by the untuned model. A champion that was tuned from another model does
            not count: its tokenizer need not be the one that the chunks were measured with.
    """
    champion = ws.artifacts.alias("model", retriever_name(name), CHAMPION)
    if champion is None:
        return None
    record = IndexRecord.load(ws.artifacts.directory(untuned))
    tuned_from = ws.artifacts.manifest(champion).inputs.get(BASE_MODEL)
    return champion if tuned_from == record.embedding_identity else None


def with_retriever_in_service(
    ws: Workspace, name: str, config: IndexConfig, untuned: ArtifactRef
) -> IndexConfig:
    """An index configuration with the champion as embedding model, if there is one to serve.

    It is named by its fingerprint, not by its alias: what an index was made with must not change
    when the alias moves.
    """
    champion = retriever_in_service(ws, name, untuned)
    if champion is None:
        return config
    return config.model_copy(update={"embedding_model": f"{ARTIFACT_PREFIX}{champion}"})


def serving_index(ws: Workspace, name: str, untuned: ArtifactRef) -> ServingIndex | None:
    """The pipeline's present index, to be made again with the champion.

    The corpus and all other settings are those of `index/<name>@latest`; of `untuned`, where the
    pipeline has no index yet.

    Args:
        ws: live services.
        name: the pipeline's name.
        untuned: the index that the retriever was tuned from.

    Returns:
        `None` when there is no champion to serve, so that the index may stay as it is.
    """
    if retriever_in_service(ws, name, untuned) is None:
        return None
    present = ws.artifacts.alias("index", name, LATEST) or untuned
    manifest = ws.artifacts.manifest(present)
    config = IndexConfig.model_validate(manifest.config)
    return ServingIndex(
        config=with_retriever_in_service(ws, name, config, untuned),
        corpus=manifest.input_refs["corpus"],
    )
