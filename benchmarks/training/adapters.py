"""Activated LoRA against plain LoRA: what the cheaper training costs in quality.

    OMP_NUM_THREADS=1 python -m benchmarks.training.adapters DATASET [--epochs 3] [--seeds 1]

Both adapters are trained by the product's own path on a dataset's training rows, with the same
order, batches, rate and rank, and measured on its test rows, whose documents training never saw.
Printed are the mean negative log-likelihood per answer token (nats, lower is better; each row
counts alike), the paired difference over rows with its 95% interval, and CPU seconds of training.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.training.rows import encode_fitting, read_dataset_rows
from pipeline_lib.config import FinetuneConfig
from pipeline_lib.config.base import BUNDLED_LANGUAGE_MODEL
from pipeline_lib.evaluation.statistics import Resampling, compare_means
from pipeline_lib.models import resolve_model
from pipeline_lib.raft.rows import read_rows
from pipeline_lib.settings import load_settings
from pipeline_lib.training.estimate.hardware import this_machine
from pipeline_lib.training.examples import write_examples
from pipeline_lib.training.launcher import run_training
from pipeline_lib.training.packing import resolve_layout
from pipeline_lib.training.plan import TrainingPlan

METHODS = ("lora", "activated_lora")
_LEARNED_TASK = "answer"
_NEVER = 1_000_000


def train(
    method: str, arguments: argparse.Namespace, base: Path, files: dict[str, Path], seed: int
) -> tuple[dict[str, float], dict[str, float], float]:
    """Train one adapter; losses of test rows before and after, and CPU seconds."""
    config = FinetuneConfig.model_validate(
        {
            "method": method,
            "seed": seed,
            "supervised": {
                "num_epochs": arguments.epochs,
                "learning_rate": arguments.learning_rate,
            },
            "batch": {
                "global_batch_size": arguments.batch,
                "micro_batch_size": 2,
                "max_seq_len": arguments.max_seq_len,
            },
            "engine": {"zero_stage": 0, "gradient_checkpointing": "off", "check_memory": "off"},
            "checkpoints": {"every_steps": _NEVER},
        }
    )
    validations: list[dict[str, Any]] = []

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "validation":
            validations.append(event)

    machine = this_machine()
    with tempfile.TemporaryDirectory() as folder:
        plan = TrainingPlan(
            config=config,
            batch=config.batch_arithmetic,
            base_model_path=base,
            files=files,
            run_folder=Path(folder),
            device=machine.device,
            precision=machine.precision,
            learning_rate=arguments.learning_rate,
            num_epochs=arguments.epochs,
            gradient_checkpointing=False,
            layout=resolve_layout(config.batch, base),
        )
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run_training(plan, on_event)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    first, last = (_losses_by_row(event) for event in (validations[0], validations[-1]))
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return first, last, seconds


def _losses_by_row(event: dict[str, Any]) -> dict[str, float]:
    """Every test row is a task of its own, so its loss is told by itself."""
    return {name: value for name, value in event.items() if name.startswith("loss_row-")}


def main() -> None:
    """Train both and compare."""
    from transformers import AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", help="a dataset artifact's folder")
    parser.add_argument("--model", default=BUNDLED_LANGUAGE_MODEL)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--max-seq-len", type=int, default=1024)
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each adapter")
    arguments = parser.parse_args()
    settings = load_settings()
    base = resolve_model(settings, arguments.model).path
    tokenizer = AutoTokenizer.from_pretrained(base)
    learned = [
        replace(example, task=_LEARNED_TASK)
        for example in encode_fitting(
            read_dataset_rows(settings, arguments.dataset), tokenizer, arguments.max_seq_len
        )
    ]
    test_rows = read_rows(Path(arguments.dataset) / "test.parquet")
    measured = [
        replace(example, task=f"row-{number}")
        for number, example in enumerate(
            encode_fitting(test_rows, tokenizer, arguments.max_seq_len)
        )
    ]
    print(f"{len(learned)} rows learned, {len(measured)} measured")
    losses: dict[str, list[float]] = {method: [] for method in METHODS}
    with tempfile.TemporaryDirectory() as folder:
        files = {split: Path(folder) / f"{split}.arrow" for split in ("train", "validation")}
        write_examples(files["train"], learned)
        write_examples(files["validation"], measured)
        for seed in range(arguments.seeds):
            for method in METHODS:
                before, after, seconds = train(method, arguments, base, files, seed)
                losses[method] += list(after.values())
                print(
                    f"{method:15} seed {seed}: {_mean(before):.4f} before, {_mean(after):.4f} "
                    f"after; {seconds:.0f} CPU-s with start and validation",
                    flush=True,
                )
    gap = compare_means(losses["activated_lora"], losses["lora"], Resampling())
    print(
        f"activated - plain {gap.difference:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}], "
        f"p {gap.p_value:.4f}, {gap.num} pairs"
    )


def _mean(losses: dict[str, float]) -> float:
    return sum(losses.values()) / len(losses)


if __name__ == "__main__":
    main()
