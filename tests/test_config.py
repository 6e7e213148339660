"""The configuration refuses what makes no sense, and its words are fit for a form."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline_lib import config as config_module
from pipeline_lib.artifacts.manifest import fingerprint
from pipeline_lib.config import (
    ChunkConfig,
    EngineConfig,
    FinetuneConfig,
    FrozenConfig,
    IndexConfig,
    IngestConfig,
    PipelineConfig,
    SplitConfig,
    SynthesizeConfig,
)

MODELS = [
    value
    for value in vars(config_module).values()
    if isinstance(value, type) and issubclass(value, FrozenConfig) and value is not FrozenConfig
]
CONFIG = Path(config_module.__file__).parent


@cache
def library_text() -> str:
    """All code that may read a configuration, except the configuration's own."""
    packages = ("pipeline_lib", "tasks", "flows", "deployments")
    root = CONFIG.parents[1]
    paths = [path for package in packages for path in (root / package).rglob("*.py")]
    return "".join(path.read_text() for path in paths if CONFIG not in path.parents)


def fields() -> Iterator[Any]:
    for model in MODELS:
        for name, field in model.model_fields.items():
            yield pytest.param(model, name, field, id=f"{model.__name__}.{name}")


@pytest.mark.parametrize("model", MODELS)
def test_an_unknown_field_is_refused_by_name(model: type[FrozenConfig]) -> None:
    with pytest.raises(ValidationError, match="no_such_field"):
        model(no_such_field=1)


@pytest.mark.parametrize(("model", "name", "field"), list(fields()))
def test_every_field_has_a_title_and_some_code_reads_it(
    model: type[FrozenConfig], name: str, field: Any
) -> None:
    assert field.title, f"{model.__name__}.{name} has no title for the form"
    own = "".join(path.read_text() for path in CONFIG.glob("*.py"))
    is_read = f".{name}" in library_text()
    assert is_read or f"self.{name}" in own, f"nobody reads {model.__name__}.{name}"


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ChunkConfig(size_tokens=64, overlap_tokens=64), "must be smaller than"),
        (
            lambda: FinetuneConfig.model_validate({"batch": {"global_batch_size": 5}}),
            "must be a multiple of",
        ),
        (
            lambda: FinetuneConfig(method="activated_lora", gguf=True),
            "there is no GGUF of it",
        ),
        (
            lambda: FinetuneConfig(
                method="activated_lora", engine=EngineConfig(gradient_checkpointing="on")
            ),
            "does not go with gradient checkpointing",
        ),
        (lambda: SplitConfig(test_fraction=0.7, validation_fraction=0.3), "less than a tenth"),
        (lambda: SynthesizeConfig(min_rows=97), "larger than num_questions"),
        (
            lambda: PipelineConfig(
                ingest=IngestConfig(embedding_model="a"), index=IndexConfig(embedding_model="b")
            ),
            "give both the same",
        ),
        (lambda: PipelineConfig(name="Has Spaces"), "pattern"),
    ],
)
def test_contradictions_are_refused_before_any_work(build: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        build()


def test_batch_arithmetic_is_derived_for_the_ranks_at_hand() -> None:
    config = FinetuneConfig.model_validate(
        {
            "batch": {"micro_batch_size": 2, "global_batch_size": 48},
            "launch": {"num_processes": 2, "num_nodes": 3, "address": "10.0.0.1:29500"},
        }
    )
    assert config.batch_arithmetic.num_ranks == 6
    assert config.batch_arithmetic.gradient_accumulation_steps == 4


def test_operational_fields_stay_out_of_nested_output_configs() -> None:
    quick = SynthesizeConfig.model_validate({"teacher": {"batch_size": 1}})
    assert quick.output_config() == SynthesizeConfig().output_config()
    assert "teacher" in quick.output_config()


def test_a_fingerprint_is_pinned() -> None:
    """It must be the same on every machine and in every release: this value never changes."""
    mark = fingerprint(
        stage="ingest",
        stage_version=1,
        output_config={"b": [1, 2.5, None], "a": "ä"},
        inputs={"sources": "sha256:1"},
        seed=42,
    )
    assert mark == "87e7d344c37ba171b02089e98e277cce"
