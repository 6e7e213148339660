"""One micro batch of RAFT rows, forward and backward: Raftline's way against plain transformers.

    python -m benchmarks.training.answer_head [--rows 2] [--rounds 5]

Both train LoRA (r 16, all linear layers) on the same rows, from the same weights, in the same
process, in turn (A B A B …). Raftline pads on the right without an attention mask and computes
logits at answer positions only; the peer is what `transformers.Trainer` does by default: a padded
batch with its mask, labels masked with -100, every logit computed.

Printed: CPU seconds (median), extra memory at the peak (from the kernel's high-water mark, in a
process of its own), the loss of each, and the ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from pipeline_lib.models import resolve_model
from pipeline_lib.settings import load_settings

MODEL = "bundled:SmolLM2-135M-Instruct"
ARMS = ("raftline", "transformers")


def make_rows(count: int, num_prompt_tokens: int, num_answer_tokens: int) -> list[dict[str, Any]]:
    """Rows of RAFT's shape: a long prompt, a short answer; lengths differ by up to a quarter."""
    import random

    rng = random.Random(0)
    rows = []
    for number in range(count):
        prompt = num_prompt_tokens - number * num_prompt_tokens // (4 * count)
        ids = [rng.randrange(1000, 40_000) for _ in range(prompt + num_answer_tokens)]
        rows.append({"input_ids": ids, "num_prompt_tokens": prompt})
    return rows


def load() -> Any:
    """The bundled model with LoRA, in the precision that this machine computes in."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from pipeline_lib.generation.hardware import best_device, best_dtype

    path = resolve_model(load_settings(), MODEL).path
    model = AutoModelForCausalLM.from_pretrained(path, dtype=best_dtype(best_device()))
    model.config.use_cache = False
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, lora, autocast_adapter_dtype=False)


def step(arm: str, model: Any, rows: list[dict[str, Any]]) -> float:
    """Forward and backward of one micro batch; returns the mean loss per answer token."""
    import torch

    from pipeline_lib.training.collator import collate

    if arm == "raftline":
        inputs = collate(rows)
    else:
        longest = max(len(row["input_ids"]) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
        for number, row in enumerate(rows):
            length, prompt = len(row["input_ids"]), row["num_prompt_tokens"]
            ids[number, :length] = torch.tensor(row["input_ids"])
            labels[number, prompt:length] = ids[number, prompt:length]
            mask[number, :length] = 1
        inputs = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    loss = model(**inputs).loss
    loss.backward()
    model.zero_grad()
    return loss.item()


def measure_memory(arm: str, arguments: argparse.Namespace) -> float:
    """Peak resident memory of one step above that of the loaded model, in MB."""
    command = [sys.executable, "-m", "benchmarks.training.answer_head", "--memory-of", arm]
    command += [f"--{name}={getattr(arguments, name)}" for name in ("rows", "prompt", "answer")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def print_own_memory(arm: str, rows: list[dict[str, Any]]) -> None:
    """In the child process: load, reset the high-water mark, one step, read the mark."""
    model = load()
    before = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")
    step(arm, model, rows)
    status = Path("/proc/self/status").read_text()
    peak_kb = int(status.split("VmHWM:")[1].split()[0])
    print(json.dumps(peak_kb / 1e3 - before / 1e6))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=700)
    parser.add_argument("--answer", type=int, default=70)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-of", choices=ARMS)
    arguments = parser.parse_args()
    rows = make_rows(arguments.rows, arguments.prompt, arguments.answer)
    if arguments.memory_of:
        print_own_memory(arguments.memory_of, rows)
        return
    model = load()
    seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
    losses = {}
    for number in range(arguments.rounds + 1):
        for arm in ARMS:
            start = time.process_time()
            losses[arm] = step(arm, model, rows)
            if number:  # the first round warms up
                seconds[arm].append(time.process_time() - start)
    memory = {arm: measure_memory(arm, arguments) for arm in ARMS}
    num_tokens = sum(len(row["input_ids"]) for row in rows)
    for arm in ARMS:
        median = statistics.median(seconds[arm])
        print(
            f"{arm:13} {median:6.2f} CPU-s   {num_tokens / median:7.0f} input tokens per CPU-s   "
            f"{memory[arm]:7.0f} MB extra   loss {losses[arm]:.4f}"
        )
    ratios = [b / a for a, b in zip(seconds["raftline"], seconds["transformers"], strict=True)]
    print(
        f"ratio         {statistics.median(ratios):.2f}x faster "
        f"({min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} pairs), "
        f"{memory['transformers'] / memory['raftline']:.1f}x less extra memory"
    )


if __name__ == "__main__":
    main()
