"""The endpoint client against a real OpenAI-compatible server: `transformers serve` on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.stack.ports import free_port
from pipeline_lib.config import TeacherConfig
from pipeline_lib.errors import GenerationError
from pipeline_lib.generation.base import GenerationParams, Prompt
from pipeline_lib.generation.endpoint import EndpointGenerator
from pipeline_lib.settings import Settings
from tests.processes import end_process

pytestmark = pytest.mark.slow

PARAMS = GenerationParams(max_new_tokens=12, json_schema='{"type": "array"}')
QUESTIONS = ["What is the capital of France?", "Write a long story about the sea."]


@pytest.fixture(scope="module")
def served(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a server of the bundled language model."""
    for package in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(package, reason="transformers serve needs it")
    port = free_port()
    log = tmp_path_factory.mktemp("serve") / "log"
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(smollm2_path)]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
            env={**os.environ, "OMP_NUM_THREADS": "2"},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 120
        while not is_up(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(log.read_text()[-4000:])
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        end_process(process)


def is_up(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def prompts() -> list[Prompt]:
    return [Prompt.chat([{"role": "user", "content": question}]) for question in QUESTIONS]


def test_a_real_server_continues_chats(served: str, smollm2_path: Path) -> None:
    from transformers import AutoTokenizer

    teacher = TeacherConfig(kind="endpoint", model=str(smollm2_path))
    with EndpointGenerator(Settings(teacher_base_url=served), teacher) as generator:
        made = generator.generate(prompts(), PARAMS)
        again = generator.generate(prompts(), PARAMS)
    assert "Paris" in made[0].text
    assert [c.finish_reason for c in made] == ["stop", "length"]
    assert made[1].num_completion_tokens == PARAMS.max_new_tokens
    assert [c.text for c in again] == [c.text for c in made]
    assert all(c.seconds > 0 for c in made)
    tokenizer = AutoTokenizer.from_pretrained(smollm2_path)
    for prompt, completion in zip(prompts(), made, strict=True):
        ids = tokenizer.apply_chat_template(
            prompt.chat_messages(), add_generation_prompt=True, return_dict=False
        )
        assert completion.num_prompt_tokens == len(ids)


def test_a_real_server_says_no_to_a_model_that_it_does_not_serve(served: str) -> None:
    teacher = TeacherConfig(kind="endpoint", model="another-model")
    with (
        EndpointGenerator(Settings(teacher_base_url=served), teacher) as generator,
        pytest.raises(GenerationError, match=r"HTTP 400.*pinned to .*another-model.*\(request "),
    ):
        generator.generate(prompts(), PARAMS)
