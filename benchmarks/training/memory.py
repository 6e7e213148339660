"""The memory that an estimate expects of a training, against what the training takes.

    python -m benchmarks.training.memory [--model bundled:SmolLM2-135M-Instruct] [--tokens 1024]

Each case is a real training of a few steps on rows that are all alike, started as the stage starts
it. Measured on CPU: the ranks' proportional set sizes, added up and sampled while they train (the
highest sum counts). On GPUs: the peak that the ranks report in their `step` events.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from pipeline_lib.config import FinetuneConfig
from pipeline_lib.models import resolve_model
from pipeline_lib.settings import load_settings
from pipeline_lib.training.estimate import TrainingRows, estimate_training, this_machine
from pipeline_lib.training.examples import Example, write_examples
from pipeline_lib.training.launcher import run_training
from pipeline_lib.training.plan import TrainingPlan

MODEL = "bundled:SmolLM2-135M-Instruct"
_SAMPLE_SECONDS = 0.25
_NUM_STEPS = 3
CASES: dict[str, dict[str, Any]] = {
    "LoRA, ZeRO 2, 1 rank": {"launch": {"num_processes": 1}},
    "LoRA, ZeRO 2, 1 rank, checkpointing": {
        "launch": {"num_processes": 1},
        "engine": {"gradient_checkpointing": "on"},
    },
    "LoRA, DDP, 2 ranks": {"engine": {"zero_stage": 0}},
    "LoRA, ZeRO 3, 2 ranks": {"engine": {"zero_stage": 3}},
    "full, ZeRO 2, 2 ranks": {"method": "full"},
    "full, DDP, 1 rank": {
        "method": "full",
        "engine": {"zero_stage": 0},
        "launch": {"num_processes": 1},
    },
}


class RankMemory:
    """The highest sum of the memory of this process' descendants that are ranks."""

    def __init__(self) -> None:
        self.peak = 0
        self._is_over = threading.Event()

    @contextmanager
    def watched(self) -> Iterator[RankMemory]:
        """Look while the block runs."""
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield self
        finally:
            self._is_over.set()
            thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(_SAMPLE_SECONDS):
            ranks = [p for p in psutil.Process().children(recursive=True) if _is_rank(p)]
            self.peak = max(self.peak, sum(map(_proportional_bytes, ranks)))


def _is_rank(process: psutil.Process) -> bool:
    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    return "pipeline_lib.training.worker" in command and "torch.distributed.run" not in command


def _proportional_bytes(process: psutil.Process) -> int:
    try:
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:  # it has ended
        return 0
    return int(text.split("Pss:")[1].split()[0]) * 1024


def rows_alike(count: int, num_tokens: int, num_answer_tokens: int) -> list[Example]:
    """Random rows of one length."""
    rng = random.Random(0)
    return [
        Example(
            row_id=str(number),
            input_ids=[rng.randrange(1000, 40_000) for _ in range(num_tokens)],
            num_prompt_tokens=num_tokens - num_answer_tokens,
        )
        for number in range(count)
    ]


def measure(plan: TrainingPlan) -> int:
    """Peak bytes of a training: of all ranks on CPU, of one GPU else."""
    reported: list[int] = []

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            reported.append(event["memory_bytes"] or 0)

    with RankMemory().watched() as memory:
        run_training(plan, on_event)
    return memory.peak if plan.device == "cpu" else max(reported)


def compare(
    name: str, settings: dict[str, Any], base: Path, num_tokens: int, num_answer_tokens: int
) -> float:
    """Run one case and print it; returns estimate over measurement."""
    sections: dict[str, Any] = {
        "launch": {"num_processes": 2},
        "batch": {"max_seq_len": num_tokens},
        "supervised": {"max_steps": _NUM_STEPS},
        "checkpoints": {"every_steps": 1},
    }
    config = FinetuneConfig.model_validate(sections | settings)
    hardware = this_machine()
    rows = TrainingRows.of_length(8, num_tokens, num_answer_tokens)
    told = estimate_training(
        config,
        base,
        rows,
        hardware,
        gradient_checkpointing=config.engine.gradient_checkpointing == "on",
    )
    with tempfile.TemporaryDirectory() as folder:
        run_folder = Path(folder)
        files = {split: run_folder / f"{split}.arrow" for split in ("train", "validation")}
        write_examples(files["train"], rows_alike(8, num_tokens, num_answer_tokens))
        write_examples(files["validation"], rows_alike(2, num_tokens, num_answer_tokens))
        plan = TrainingPlan(
            config=config,
            batch=config.batch_arithmetic,
            base_model_path=base,
            files=files,
            run_folder=run_folder,
            device=told.device,
            precision=told.precision,
            learning_rate=told.learning_rate,
            num_epochs=1,
            gradient_checkpointing=told.gradient_checkpointing,
        )
        measured = measure(plan)
    ratio = told.device_memory.num_bytes / measured
    print(
        f"{name:38} estimated {told.device_memory.num_bytes / 1e9:6.2f} GB   "
        f"measured {measured / 1e9:6.2f} GB   ratio {ratio:.2f}   {told.device_memory}",
        flush=True,
    )
    return ratio


def main() -> None:
    """Compare the cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--answer", type=int, default=64)
    parser.add_argument("--case", choices=list(CASES))
    arguments = parser.parse_args()
    base = resolve_model(load_settings(), arguments.model).path
    for name, settings in CASES.items():
        if arguments.case in (None, name):
            compare(name, settings, base, arguments.tokens, arguments.answer)


if __name__ == "__main__":
    main()
