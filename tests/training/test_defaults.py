"""Learning rate and epochs where none are given."""

from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2Config, LlamaConfig, LlavaConfig

from pipeline_lib.config import FinetuneConfig
from pipeline_lib.training.defaults import learning_rate_of, num_epochs_of


def rate_of(base_path: Path, **config: Any) -> float:
    return learning_rate_of(FinetuneConfig.model_validate(config), base_path)


@pytest.mark.parametrize(
    ("hidden_size", "rate"),
    [(64, 1e-3), (576, 1e-3), (2048, 3.6e-4), (4096, 2.1e-4), (5120, 1.7e-4), (8192, 1.2e-4)],
)
def test_it_falls_with_the_models_width(tmp_path: Path, hidden_size: int, rate: float) -> None:
    LlamaConfig(hidden_size=hidden_size).save_pretrained(tmp_path)
    assert rate_of(tmp_path) == rate


def test_a_given_one_is_taken_as_it_is(tmp_path: Path) -> None:
    LlamaConfig(hidden_size=4096).save_pretrained(tmp_path)
    given = {"supervised": {"learning_rate": 0.0123}}
    assert rate_of(tmp_path, **given) == 0.0123
    assert rate_of(tmp_path, **given, method="full") == 0.0123
    assert rate_of(tmp_path, **given, stages=("dpo",)) == 1e-5  # that of another stage


def test_it_depends_on_method_and_objective(tmp_path: Path) -> None:
    LlamaConfig(hidden_size=576).save_pretrained(tmp_path)
    assert rate_of(tmp_path, method="dora") == 1e-3
    assert rate_of(tmp_path, method="full") == 1e-4
    rates = {stage: rate_of(tmp_path, stages=(stage,)) for stage in ("dapt", "sft", "dpo", "grpo")}
    assert rates == {"dapt": 2e-4, "sft": 1e-3, "dpo": 5e-5, "grpo": 1e-5}
    assert rate_of(tmp_path, method="full", stages=("grpo",)) == 1e-6


def test_the_width_goes_by_other_names_too(tmp_path: Path) -> None:
    GPT2Config(n_embd=4096).save_pretrained(tmp_path / "gpt2")
    assert rate_of(tmp_path / "gpt2") == 2.1e-4
    LlavaConfig(text_config=LlamaConfig(hidden_size=4096)).save_pretrained(tmp_path / "llava")
    assert rate_of(tmp_path / "llava") == 2.1e-4


@pytest.mark.parametrize(
    ("num_rows", "epochs"), [(1, 8), (48, 8), (64, 6), (127, 4), (128, 3), (129, 3), (20_000, 3)]
)
def test_few_rows_are_learned_more_often(num_rows: int, epochs: int) -> None:
    assert num_epochs_of(FinetuneConfig(), num_rows) == epochs


def test_given_epochs_are_taken_and_other_objectives_make_one() -> None:
    given = FinetuneConfig.model_validate({"supervised": {"num_epochs": 0.5}})
    assert num_epochs_of(given, 48) == 0.5
    for stage in ("dapt", "dpo", "grpo"):
        other = FinetuneConfig.model_validate({"stages": (stage,)})
        assert num_epochs_of(other, 48) == 1
