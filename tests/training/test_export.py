"""What an artifact holds: merged weights that equal the adapter, and files that others load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import FinetuneConfig
from pipeline_lib.errors import ExportError, ModelNotFoundError
from pipeline_lib.models import ResolvedModel, resolve_model
from pipeline_lib.stage import ArtifactDraft, Workspace, run_stage
from pipeline_lib.training.export import export_model, merge, tuned_model

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

IDS = [[1, 70, 71, 72, 80, 90, 100, 110, 2, 60]]


def save_adapter(base: Path, folder: Path, *, dtype: str = "float32", **settings: Any) -> Any:
    """Save an adapter with random weights, as a trainer does; returns its logits on `IDS`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
    config = LoraConfig(
        r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM", **settings
    )
    model = get_peft_model(model, config).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
            elif "magnitude" in name:
                parameter.mul_(1.2)
    model.save_pretrained(folder)
    return logits_of(model)


def logits_of(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor(IDS)).logits[0]


def assert_equal(logits: Any, expected: Any) -> None:
    import torch

    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def load(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def export(trained: Path, base: Path, target: Path, **config: Any) -> Path:
    target.mkdir()
    export_model(trained, base, "hub/base", FinetuneConfig.model_validate(config), target)
    return target


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_merged_equals_adapter_in_logits(
    tiny_model_path: Path, tmp_path: Path, method: str
) -> None:
    expected = save_adapter(tiny_model_path, tmp_path / "trained", use_dora=method == "dora")
    folder = export(tmp_path / "trained", tiny_model_path, tmp_path / "artifact", method=method)
    assert_equal(logits_of(load(folder / "merged")), expected)
    assert (expected - logits_of(load(tiny_model_path))).abs().max() > 0.1


def test_the_merge_rounds_once_to_the_base_models_format(
    tiny_model_path: Path, tmp_path: Path
) -> None:
    """In bf16, `round(W + (alpha / r) B A)`, by hand; nothing else changes."""
    import torch
    from safetensors.torch import load_file

    base = tmp_path / "bf16"
    shutil.copytree(tiny_model_path, base)
    load(tiny_model_path).to(torch.bfloat16).save_pretrained(base)
    save_adapter(base, tmp_path / "trained", dtype="bfloat16")
    adapter = load_file(tmp_path / "trained" / "adapter_model.safetensors")
    original = dict(load_file(base / "model.safetensors"))
    merged = merge(base, tmp_path / "trained").state_dict()
    changed = 0
    for name, weight in original.items():
        lora = f"base_model.model.{name.removesuffix('.weight')}"
        expected = weight
        if f"{lora}.lora_A.weight" in adapter:
            a, b = (adapter[f"{lora}.lora_{half}.weight"].float() for half in "AB")
            expected = (weight.float() + 2 * (b @ a)).to(torch.bfloat16)
            changed += 1
        assert merged[name].dtype == torch.bfloat16
        assert torch.equal(merged[name], expected), name
    assert changed == 14  # seven matrices in each of two layers


def test_the_exported_folder_loads_without_our_code_and_names_no_path(
    tiny_model_path: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoTokenizer, GenerationConfig

    expected = save_adapter(tiny_model_path, tmp_path / "trained")
    folder = export(tmp_path / "trained", tiny_model_path, tmp_path / "artifact")
    adapted = PeftModel.from_pretrained(load(tiny_model_path), folder / "adapter")
    assert_equal(logits_of(adapted), expected)
    tokenizer = AutoTokenizer.from_pretrained(folder / "merged")
    original = AutoTokenizer.from_pretrained(tiny_model_path)
    text = "<|im_start|>user\nWörter, 123<|im_end|>"
    assert tokenizer(text) == original(text)
    assert tokenizer.chat_template == original.chat_template
    generation = GenerationConfig.from_pretrained(folder / "merged")
    assert generation.eos_token_id == [tokenizer.eos_token_id]
    assert generation.do_sample is False
    for path in folder.rglob("*.json"):
        assert str(tmp_path) not in path.read_text()
    adapter_config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert adapter_config["base_model_name_or_path"] == "hub/base"


def test_the_tokenizers_class_is_one_that_older_versions_of_transformers_know(
    tiny_model_path: Path, tmp_path: Path
) -> None:
    save_adapter(tiny_model_path, tmp_path / "trained")
    folder = export(tmp_path / "trained", tiny_model_path, tmp_path / "artifact")
    settings = json.loads((folder / "merged" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "local_files_only" not in settings


def test_a_base_model_that_ends_in_more_ways_than_its_tokenizer_says_keeps_them(
    tiny_model_path: Path, tmp_path: Path
) -> None:
    from transformers import GenerationConfig

    base = tmp_path / "base"
    shutil.copytree(tiny_model_path, base)
    sampled = GenerationConfig(
        bos_token_id=1, eos_token_id=[0, 2], do_sample=True, temperature=0.6, top_p=0.9
    )
    sampled.save_pretrained(base)
    save_adapter(base, tmp_path / "trained")
    folder = export(tmp_path / "trained", base, tmp_path / "artifact")
    generation = GenerationConfig.from_pretrained(folder / "merged")
    assert generation.eos_token_id == [2, 0]
    assert (generation.do_sample, generation.bos_token_id) == (False, 1)


def test_full_weights_are_stored_in_the_base_models_format(
    tiny_model_path: Path, tmp_path: Path
) -> None:
    import torch

    model = load(tiny_model_path).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "trained")
    folder = export(tmp_path / "trained", tiny_model_path, tmp_path / "artifact", method="full")
    assert not (folder / "adapter").exists()
    assert json.loads((folder / "merged" / "config.json").read_text())["dtype"] == "float32"
    assert_equal(logits_of(load(folder / "merged")), logits_of(model.float()))


def test_large_models_are_cut_into_files_with_an_index(
    tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline_lib.training.export._SHARD_SIZE", "100KB")
    expected = save_adapter(tiny_model_path, tmp_path / "trained")
    folder = export(tmp_path / "trained", tiny_model_path, tmp_path / "artifact")
    assert len(list((folder / "merged").glob("model-*-of-*.safetensors"))) > 1
    assert_equal(logits_of(load(folder / "merged")), expected)


def test_an_activated_lora_is_exported_without_merged_weights(
    tiny_model_path: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    save_adapter(tiny_model_path, tmp_path / "trained", alora_invocation_tokens=[1, 100])
    folder = export(
        tmp_path / "trained", tiny_model_path, tmp_path / "artifact", method="activated_lora"
    )
    assert [path.name for path in folder.iterdir()] == ["adapter"]
    settings = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert settings["alora_invocation_tokens"] == [1, 100]
    assert AutoTokenizer.from_pretrained(folder / "adapter").chat_template


def test_a_base_model_without_chat_template_is_refused_with_the_file_that_is_missing(
    tiny_model_path: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model_path, base)
    (base / "chat_template.jinja").unlink()
    save_adapter(base, tmp_path / "trained")
    with pytest.raises(ExportError, match="merged: there is no chat template"):
        export(tmp_path / "trained", base, tmp_path / "artifact")


def test_an_adapter_that_is_not_finite_is_refused(tiny_model_path: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_adapter(tiny_model_path, tmp_path / "trained")
    path = tmp_path / "trained" / "adapter_model.safetensors"
    weights = load_file(path)
    next(iter(weights.values()))[0, 0] = float("nan")
    save_file(weights, path)
    with pytest.raises(ExportError, match="cannot be merged: NaNs detected"):
        export(tmp_path / "trained", tiny_model_path, tmp_path / "artifact")


def test_gguf_is_written_when_it_is_asked_for(tiny_model_path: Path, tmp_path: Path) -> None:
    save_adapter(tiny_model_path, tmp_path / "trained")
    folder = export(tmp_path / "trained", tiny_model_path, tmp_path / "artifact", gguf=True)
    assert (folder / "gguf" / "model-f16.gguf").read_bytes()[:4] == b"GGUF"


def publish(ws: Workspace, base: Path, folder: str) -> ArtifactRef:
    """A model artifact with an empty configuration in one folder."""

    def build(draft: ArtifactDraft) -> None:
        path = draft.directory / folder / "config.json"
        path.parent.mkdir()
        path.write_text("{}")

    return run_stage(
        ws,
        kind="model",
        name="demo",
        stage="test",
        stage_version=1,
        config=FinetuneConfig(base_model=str(base)),
        inputs={"base_model": resolve_model(ws.settings, str(base)).identity},
        build=build,
    ).ref


def test_what_is_loaded_of_an_artifact_is_merged_weights_where_there_are_any(
    workspace: Workspace, tiny_model_path: Path
) -> None:
    ref = publish(workspace, tiny_model_path, "merged")
    folder = workspace.artifacts.directory(ref)
    assert tuned_model(workspace, ref) == ResolvedModel(str(ref), folder / "merged", str(ref))


def test_without_merged_weights_it_is_the_base_model_with_the_adapter(
    workspace: Workspace, tiny_model_path: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model_path, base)
    ref = publish(workspace, base, "adapter")
    adapter = workspace.artifacts.directory(ref) / "adapter"
    assert tuned_model(workspace, ref) == ResolvedModel(
        str(ref), base.resolve(), str(ref), adapter=adapter
    )
    change = json.loads((base / "config.json").read_text()) | {"rope_theta": 1.0}
    (base / "config.json").write_text(json.dumps(change))
    with pytest.raises(ModelNotFoundError, match=r"but model/demo/.* was fine-tuned from"):
        tuned_model(workspace, ref)
