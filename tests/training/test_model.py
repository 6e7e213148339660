"""What a rank trains: which weights learn, in which number format, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline_lib.config import FinetuneConfig
from pipeline_lib.errors import ConfigError, ModelNotFoundError
from pipeline_lib.training.defaults import learning_rate_of
from pipeline_lib.training.model import check_continuation, check_method, load_trainable
from pipeline_lib.training.plan import TrainingPlan

from .conftest import PlanFactory, enable_checkpointing, random_examples
from .warm_ranks import history, train

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

IDS = torch.tensor([[1, 70, 71, 72, 80, 90, 100]])


@pytest.fixture
def plan(tiny_model_path: Path, tmp_path: Path) -> Any:
    """Build a plan that is only loaded from: `plan(method="dora", adapter_path=…)`."""

    def build(
        adapter_path: Path | None = None,
        base: Path = tiny_model_path,
        precision: str = "fp32",
        gradient_checkpointing: bool = False,
        **config: Any,
    ) -> TrainingPlan:
        made = FinetuneConfig.model_validate({"engine": {"zero_stage": 0}} | config)
        return TrainingPlan(
            config=made,
            batch=made.batch_arithmetic,
            base_model_path=base,
            adapter_path=adapter_path,
            files={},
            run_folder=tmp_path,
            device="cpu",
            precision=precision,  # type: ignore[arg-type]
            learning_rate=learning_rate_of(made, base),
            num_epochs=1,
            gradient_checkpointing=gradient_checkpointing,
        )

    return build


def trained_names(model: Any) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def dtypes(model: Any, *, trained: bool) -> set[torch.dtype]:
    return {p.dtype for p in model.parameters() if p.requires_grad == trained}


@pytest.mark.parametrize(
    ("method", "parts"),
    [
        ("lora", {"lora_A", "lora_B"}),
        ("dora", {"lora_A", "lora_B", "lora_magnitude_vector"}),
        ("activated_lora", {"lora_A", "lora_B"}),
    ],
)
def test_adapters_learn_on_every_linear_layer_and_the_base_stays(
    plan: Any, method: str, parts: set[str]
) -> None:
    model = load_trainable(plan(method=method))
    names = trained_names(model)
    assert {part for name in names for part in parts if part in name} == parts
    assert len(names) == 14 * len(parts)  # seven matrices in each of two layers
    assert not model.config.use_cache
    assert not [name for name in names if "lm_head" in name or "embed_tokens" in name]


def test_a_new_adapter_changes_nothing_yet(plan: Any, tiny_model_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32)
    for method in ("lora", "dora"):
        adapted = load_trainable(plan(method=method))
        torch.testing.assert_close(adapted(input_ids=IDS).logits, base(input_ids=IDS).logits)


def test_full_training_trains_everything(plan: Any) -> None:
    model = load_trainable(plan(method="full"))
    assert len(trained_names(model)) == len(list(model.parameters()))


def test_somebody_keeps_fp32_numbers_of_what_learns(plan: Any) -> None:
    """DeepSpeed does it beside the model; without it, the trained weights are fp32 themselves."""
    adapted = load_trainable(plan(precision="bf16"))
    assert dtypes(adapted, trained=True) == {torch.float32}
    assert dtypes(adapted, trained=False) == {torch.bfloat16}
    assert dtypes(load_trainable(plan(precision="bf16", method="full")), trained=True) == {
        torch.float32
    }
    sharded = load_trainable(plan(precision="bf16", engine={"zero_stage": 3}))
    assert dtypes(sharded, trained=True) == dtypes(sharded, trained=False) == {torch.bfloat16}


def test_an_activated_lora_begins_at_the_templates_generation_prompt(plan: Any) -> None:
    config = load_trainable(plan(method="activated_lora")).active_peft_config
    assert len(config.alora_invocation_tokens) == len("\nassistant") + 1  # bytes, and one special


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_an_adapter_that_is_continued_is_the_one_that_was_saved(
    plan: Any, tmp_path: Path, method: str
) -> None:
    first = load_trainable(plan(method=method))
    randomize(first)
    first.save_pretrained(tmp_path / "saved")
    again = load_trainable(
        plan(tmp_path / "saved", method=method, lora={"dropout": 0.25}, precision="fp32")
    )
    assert trained_names(again) == trained_names(first)
    torch.testing.assert_close(again.eval()(input_ids=IDS).logits, first(input_ids=IDS).logits)
    assert again.active_peft_config.lora_dropout == 0.25


def randomize(model: Any) -> None:
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"lora": {"r": 8}}, r"lora\.r 16 \(not 8\)"),
        ({"lora": {"alpha": 64}}, r"lora\.alpha 32 \(not 64\)"),
        ({"method": "dora"}, r"method 'lora' \(not 'dora'\)"),
        ({"method": "activated_lora"}, r"method 'lora' \(not 'activated_lora'\)"),
        ({"lora": {"target_modules": ".*q_proj"}}, r"lora\.target_modules \[.*\(not '\.\*q_proj"),
    ],
)
def test_an_adapter_that_the_configuration_describes_otherwise_is_refused(
    plan: Any, tmp_path: Path, config: dict[str, Any], told: str
) -> None:
    load_trainable(plan()).save_pretrained(tmp_path / "saved")
    with pytest.raises(ConfigError, match=told):
        check_continuation(tmp_path / "saved", FinetuneConfig.model_validate(config))


def test_what_all_linear_means_has_to_be_what_the_adapter_is_on(plan: Any, tmp_path: Path) -> None:
    attention = plan(lora={"target_modules": r".*\.[qkvo]_proj"})
    load_trainable(attention).save_pretrained(tmp_path / "saved")
    path = tmp_path / "saved" / "adapter_config.json"
    settings = json.loads(path.read_text())
    settings["target_modules"] = ["q_proj", "k_proj", "v_proj", "o_proj"]
    path.write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=r"is on \['k_proj', 'o_proj', 'q_proj', 'v_proj'\]"):
        load_trainable(plan(tmp_path / "saved"))


def test_a_model_without_an_adapter_cannot_be_continued(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no adapter to continue from"):
        check_continuation(tmp_path, FinetuneConfig())


def test_an_adapter_on_tied_embeddings_is_refused(
    plan: Any, tiny_model_path: Path, tmp_path: Path
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(tiny_model_path, tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "tied")
    AutoTokenizer.from_pretrained(tiny_model_path).save_pretrained(tmp_path / "tied")
    load_trainable(plan(base=tmp_path / "tied"))  # 'all-linear' leaves them out
    with (
        pytest.warns(UserWarning, match="tie_word_embeddings"),
        pytest.raises(ConfigError, match=r"takes in 'lm_head', which this model ties"),
    ):
        load_trainable(plan(base=tmp_path / "tied", lora={"target_modules": ".*lm_head"}))


def test_a_folder_that_lacks_weights_is_refused(
    plan: Any, tiny_model_path: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "broken"
    shutil.copytree(tiny_model_path, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelNotFoundError, match=r"lacks 1 of its weights \(model\.layers\.1\.mlp"):
        load_trainable(plan(base=folder))


def test_checkpointing_needs_no_gradient_of_the_inputs(plan: Any) -> None:
    """Gradients with and without it are the same."""
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = load_trainable(plan(gradient_checkpointing=checkpointing)).train()
        if checkpointing:
            enable_checkpointing(model)
        randomize(model)
        model(input_ids=IDS, labels=IDS).loss.backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)
        assert gradient.abs().max() > 0


@pytest.mark.slow
def test_a_continued_dora_learns_under_zero_3_with_checkpointing_as_in_one_process(
    plan: Any, make_plan: PlanFactory, tmp_path: Path
) -> None:
    """Loss and gradient norm of one step over 8 rows, on 2 ranks that hold parts of the weights."""
    started = load_trainable(plan(method="dora"))
    randomize(started)
    started.save_pretrained(tmp_path / "start")
    examples = random_examples(8)
    sharded = make_plan(
        "run",
        examples,
        method="dora",
        engine={"zero_stage": 3, "precision": "fp32"},
        supervised={"max_steps": 1},
    ).model_copy(update={"adapter_path": tmp_path / "start", "gradient_checkpointing": True})
    train(sharded)

    total = torch.zeros(())
    for example in examples:
        ids = torch.tensor([list(example.input_ids)])
        start = example.num_prompt_tokens
        logits = started(input_ids=ids).logits[0, start - 1 : -1]
        total = total + torch.nn.functional.cross_entropy(logits, ids[0, start:], reduction="sum")
    loss = total / sum(example.num_loss_tokens for example in examples)
    loss.backward()
    learned = [p.grad for p in started.parameters() if p.requires_grad]
    assert history(sharded) == {1: pytest.approx(loss.item(), rel=1e-4)}
    norm = torch.nn.utils.get_total_norm(learned).item()
    assert history(sharded, "grad_norm") == {1: pytest.approx(norm, rel=1e-3)}


def check(device: str = "cpu", **config: Any) -> None:
    check_method(FinetuneConfig.model_validate(config), device)


def test_qlora_is_refused_without_gpu_or_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="'qlora' needs a GPU"):
        check(method="qlora")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match="needs bitsandbytes") as caught:
        check("cuda", method="qlora")
    assert "raftline[qlora]" in str(caught.value)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    with pytest.raises(ConfigError, match="does not go with ZeRO 3"):
        check("cuda", method="qlora", engine={"zero_stage": 3})
    check("cuda", method="qlora")


@pytest.mark.gpu
def test_qlora_keeps_the_base_in_four_bits(plan: Any) -> None:
    pytest.importorskip("bitsandbytes")
    quantized = plan(method="qlora", precision="bf16").model_copy(update={"device": "cuda"})
    model = load_trainable(quantized)
    assert dtypes(model, trained=True) == {torch.float32}
    assert torch.uint8 in dtypes(model, trained=False)
