"""One micro batch of RAFT rows, forward and backward: Raftline's layouts and plain transformers.

    python -m benchmarks.training.answer_head [--questions 4] [--rounds 5]

All train LoRA (r 16, all linear layers) on the same rows, from the same weights, in the same
process, in turn (A B C A B C …). The rows are questions about one context.

    packed        rows end to end, attention told where they end, logits at answer positions only
    shared        the same, with the context laid out once
    padded        padded on the right, no mask, logits at answer positions only
    transformers  what `transformers.Trainer` does by default: a padded batch with its mask, labels
                  masked with -100, every logit computed

Printed: CPU seconds (median), extra memory at the peak (from the kernel's high-water mark, in a
process of its own), the loss of each, and ratios to `transformers`.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from pipeline_lib.models import resolve_model
from pipeline_lib.settings import load_settings
from pipeline_lib.training.attention import register_segment_attention
from pipeline_lib.training.collation import PackedCollator, PaddedCollator
from pipeline_lib.training.examples import Example
from pipeline_lib.training.losses import token_losses

SHAPE = ("questions", "context", "answer")
MODEL = "bundled:SmolLM2-135M-Instruct"
ARMS = ("packed", "shared", "padded", "transformers")


def make_rows(arguments: argparse.Namespace) -> list[Example]:
    """Questions about one context: a long prompt, a short answer, of differing length."""
    rng = random.Random(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(1000, 40_000) for _ in range(count))

    context = tokens(arguments.context)
    rows = []
    for number in range(arguments.questions):
        question, answer = tokens(20 + number), tokens(arguments.answer * (4 + number % 3) // 4)
        prompt = (*context, *question)
        rows.append(Example(str(number), (*prompt, *answer), len(prompt), prompt_group="context"))
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


def step(arm: str, model: Any, rows: list[Example]) -> float:
    """Forward and backward of one micro batch; returns the mean loss per answer token."""
    is_packed = arm in ("packed", "shared")
    attention = register_segment_attention() if is_packed else "sdpa"
    model.get_base_model().set_attn_implementation(attention)
    loss = plain_loss(model, rows) if arm == "transformers" else raftline_loss(arm, model, rows)
    loss.backward()
    model.zero_grad()
    return loss.item()


def raftline_loss(arm: str, model: Any, rows: list[Example]) -> torch.Tensor:
    """As `SupervisedTrainer` computes it."""
    if arm == "padded":
        batch = PaddedCollator(["answer"])(rows)
    else:
        batch = PackedCollator(["answer"], share_contexts=arm == "shared")(rows)
    targets = batch.pop("targets")
    logits = model(**batch).logits
    return token_losses(logits.view(-1, logits.shape[-1]), targets.ids).mean()


def plain_loss(model: Any, rows: list[Example]) -> torch.Tensor:
    """As `transformers.Trainer` does by default."""
    longest = max(len(row.input_ids) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for number, row in enumerate(rows):
        length, prompt = len(row.input_ids), row.num_prompt_tokens
        ids[number, :length] = torch.tensor(row.input_ids)
        labels[number, prompt:length] = ids[number, prompt:length]
        mask[number, :length] = 1
    loss: torch.Tensor = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    return loss


def measure_memory(arm: str, arguments: argparse.Namespace) -> float:
    """Peak resident memory of one step above that of the loaded model, in MB."""
    command = [sys.executable, "-m", "benchmarks.training.answer_head", "--memory-of", arm]
    command += [f"--{name}={getattr(arguments, name)}" for name in SHAPE]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def print_own_memory(arm: str, rows: list[Example]) -> None:
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
    parser.add_argument("--questions", type=int, default=4)
    parser.add_argument("--context", type=int, default=700)
    parser.add_argument("--answer", type=int, default=70)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-of", choices=ARMS)
    arguments = parser.parse_args()
    rows = make_rows(arguments)
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
    num_tokens = sum(len(row.input_ids) for row in rows)
    print(f"{len(rows)} rows, {num_tokens} tokens, {sum(r.num_loss_tokens for r in rows)} learned")
    for arm in ARMS:
        median = statistics.median(seconds[arm])
        ratios = [b / a for a, b in zip(seconds[arm], seconds["transformers"], strict=True)]
        print(
            f"{arm:13} {median:6.2f} CPU-s   {num_tokens / median:7.0f} input tokens per CPU-s   "
            f"{memory[arm]:7.0f} MB extra   loss {losses[arm]:.4f}   "
            f"{statistics.median(ratios):.2f}x faster ({min(ratios):.2f} to {max(ratios):.2f}), "
            f"{memory['transformers'] / memory[arm]:.1f}x less extra memory"
        )


if __name__ == "__main__":
    main()
