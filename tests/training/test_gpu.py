"""What only a GPU shows: NCCL, bf16 under DeepSpeed, the variable-length kernel, resuming there.

One command runs them where there is a CUDA device, and skips them elsewhere:
`python -m pytest -m gpu tests`. One device is enough; with two, training takes two ranks.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.training.examples import Example
from pipeline_lib.training.launcher import run_training
from pipeline_lib.training.plan import CHECKPOINTS_FOLDER, TrainingPlan

from .conftest import PlanFactory, random_examples

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

ROWS = 8
BF16_LOSS = 0.02
"""Relative tolerance: a loss in bf16 against one in fp32, or summed in another order."""


@pytest.fixture(autouse=True)
def num_ranks(monkeypatch: pytest.MonkeyPatch) -> int:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)  # the other tests' is the CPU
    return min(2, torch.cuda.device_count())


def gpu_plan(make_plan: PlanFactory, name: str, num_ranks: int, **config: Any) -> TrainingPlan:
    """Steps over the same eight rows each, so that any two runs' losses can be compared."""
    examples = config.pop("examples", random_examples(ROWS))
    sections: dict[str, Any] = {
        "precision": "bf16",
        "launch": {"num_processes": num_ranks},
        "batch": {"global_batch_size": ROWS, "micro_batch_size": 2},
    }
    plan = make_plan(name, examples, **(sections | config))
    return plan.model_copy(update={"device": "cuda"})


def train(plan: TrainingPlan) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    run_training(plan, events.append)
    return events


def losses(events: list[dict[str, Any]]) -> dict[int, float]:
    return {event["step"]: event["loss"] for event in events if event["event"] == "step"}


def full_logits_loss(model_path: Path, examples: list[Example]) -> float:
    """Mean over target tokens, of one row at a time, in fp32 on the CPU, by plain transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    total = 0.0
    for example in examples:
        ids = torch.tensor([list(example.input_ids)])
        with torch.no_grad():
            logits = model(ids).logits[0, example.num_prompt_tokens - 1 : -1]
        targets = ids[0, example.num_prompt_tokens :]
        total += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
    return total / sum(example.num_loss_tokens for example in examples)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_bf16_under_nccl_learns_the_same_at_every_stage_of_zero(
    make_plan: PlanFactory, tiny_model_path: Path, num_ranks: int, method: str
) -> None:
    """The first loss is the untrained model's; from there all stages go down the same way."""
    by_stage = {}
    for stage in (0, 2, 3):
        plan = gpu_plan(
            make_plan,
            f"zero-{stage}",
            num_ranks,
            method=method,
            engine={"zero_stage": stage},
            supervised={"max_steps": 4, "learning_rate": 1e-3, "warmup_fraction": 0.0},
        )
        by_stage[stage] = losses(train(plan))
    expected = full_logits_loss(tiny_model_path, random_examples(ROWS))
    for stage, by_step in by_stage.items():
        assert by_step[1] == pytest.approx(expected, rel=BF16_LOSS), stage
        assert by_step == pytest.approx(by_stage[0], rel=BF16_LOSS), stage
        assert by_step[4] < by_step[1], stage


def test_packed_rows_that_share_a_prompt_learn_as_padded_ones_do(
    make_plan: PlanFactory, num_ranks: int
) -> None:
    """Through the kernel on the one side and plain attention on the other: losses and gradients."""
    shared = tuple(range(3, 203))
    examples = [
        Example(
            f"{place}", (*shared, *row.input_ids), 200 + row.num_prompt_tokens, prompt_group="g"
        )
        for place, row in enumerate(random_examples(ROWS))
    ]
    seen = {}
    for layout in ("packed", "padded"):
        plan = gpu_plan(
            make_plan,
            layout,
            num_ranks,
            examples=examples,
            layout=layout,
            method="full",
            engine={"zero_stage": 0},
            supervised={"max_steps": 2, "warmup_fraction": 0.0},
        )
        steps = [event for event in train(plan) if event["event"] == "step"]
        seen[layout] = [(step["loss"], step["grad_norm"]) for step in steps]
    for packed, padded in zip(seen["packed"], seen["padded"], strict=True):
        assert packed[0] == pytest.approx(padded[0], rel=BF16_LOSS)
        assert packed[1] == pytest.approx(padded[1], rel=0.1)


SEGMENTS = ((37, 5, 11, 64, 1), (-1, 0, 0, -1, 3))
"""A context and two questions about it, a row apart, and one token that continues that."""


def dense_attention(
    query: Any,
    key: Any,
    value: Any,
    lengths: tuple[int, ...],
    parents: tuple[int, ...],
    window: Any,
) -> Any:
    """The definition, in fp32: a token sees its segment's ancestors and itself as far as it is."""
    import torch

    places: list[list[int]] = []
    starts = [sum(lengths[:index]) for index in range(len(lengths))]
    for index, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        lineage, ancestor = [], parents[index]
        while ancestor >= 0:
            lineage = [*range(starts[ancestor], starts[ancestor] + lengths[ancestor]), *lineage]
            ancestor = parents[ancestor]
        ends = range(start + 1, start + length + 1)
        places += [[*lineage, *range(start, end)][-(window or 10_000) :] for end in ends]
    seen = torch.zeros(sum(lengths), sum(lengths), dtype=torch.bool, device=query.device)
    for row, columns in enumerate(places):
        seen[row, columns] = True
    repeats = query.shape[1] // key.shape[1]
    query, key, value = (part.float() for part in (query, key, value))
    scores = query @ key.repeat_interleave(repeats, 1).transpose(2, 3) / query.shape[-1] ** 0.5
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    return (weights @ value.repeat_interleave(repeats, 1)).transpose(1, 2)


def relative_error(value: Any, reference: Any) -> float:
    value, reference = value.detach().float(), reference.detach().float()
    return float((value - reference).norm() / reference.norm())


@pytest.mark.parametrize("window", [None, 16])
@pytest.mark.parametrize("key_heads", [8, 2])
def test_the_variable_length_kernel_computes_attention_by_its_definition(
    monkeypatch: pytest.MonkeyPatch, key_heads: int, window: int | None
) -> None:
    """bf16 against fp32, outputs and gradients; the path without the kernel is out of reach."""
    import torch

    from pipeline_lib.training import attention

    def refuse(*_: Any) -> None:
        raise AssertionError("the kernel was not used")

    monkeypatch.setattr(attention, "_by_segment", refuse)
    lengths, parents = SEGMENTS
    generator = torch.Generator("cuda").manual_seed(0)

    def random_part(heads: int) -> Any:
        shape = (1, heads, sum(lengths), 64)
        part = torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16)
        return part.requires_grad_()

    parts = [random_part(8), random_part(key_heads), random_part(key_heads)]
    output, _ = attention.segment_attention(
        torch.nn.Module(),
        *parts,
        None,
        segments=attention.Segments(lengths, parents),
        sliding_window=window,
    )
    gradients = torch.autograd.grad(output.float().square().sum(), parts)
    expected = dense_attention(*parts, lengths, parents, window)
    expected_gradients = torch.autograd.grad(expected.square().sum(), parts)
    assert relative_error(output, expected) < 0.01
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        assert relative_error(gradient, other) < 0.02


def test_on_a_gpu_too_nothing_of_a_young_adapter_is_lost_in_bf16() -> None:
    import torch

    from pipeline_lib.training.fused.affine import Affine, affine

    torch.manual_seed(0)
    inputs, weight = torch.randn(400, 256), torch.randn(300, 256) / 16
    down, up = (
        torch.randn(8, 256) / 16,
        torch.randn(300, 8) * 0.03 * torch.finfo(torch.bfloat16).eps,
    )
    inputs, weight, down, up = (part.cuda().bfloat16() for part in (inputs, weight, down, up))
    adds = 2.0 * inputs.double() @ down.double().t() @ up.double().t()
    more = affine(inputs, Affine(weight, None, down, up, 2.0)).double()
    more -= affine(inputs, Affine(weight)).double()
    assert float((more * adds).sum() / adds.square().sum()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("method", "zero_stage"), [("lora", 0), ("lora", 2), ("lora", 3), ("full", 2), ("full", 3)]
)
def test_a_run_resumed_on_a_gpu_goes_on_as_if_it_had_not_stopped(
    make_plan: PlanFactory, tmp_path: Path, num_ranks: int, method: str, zero_stage: int
) -> None:
    """Not bit by bit, as on a CPU: atomic sums on a GPU come in any order."""
    config: dict[str, Any] = {
        "examples": random_examples(3 * ROWS),
        "method": method,
        "engine": {"zero_stage": zero_stage},
        "checkpoints": {"every_steps": 2},
        "supervised": {"max_steps": 6, "learning_rate": 1e-3},
    }
    plan = gpu_plan(make_plan, "whole", num_ranks, **config)
    kept = tmp_path / "kept"
    whole: list[dict[str, Any]] = []

    def keep_the_first_checkpoint(event: dict[str, Any]) -> None:
        whole.append(dict(event))
        if event["event"] == "checkpoint" and not kept.exists():
            assert event["step"] == 2
            shutil.copytree(plan.run_folder / CHECKPOINTS_FOLDER / event["folder"], kept)

    run_training(plan, keep_the_first_checkpoint)
    resumed = train(gpu_plan(make_plan, "resumed", num_ranks, resume_from=kept, **config))
    expected = {step: loss for step, loss in losses(whole).items() if step > 2}
    assert sorted(expected) == [3, 4, 5, 6]
    assert losses(resumed) == pytest.approx(expected, rel=0.005)


def test_the_benchmark_compares_on_a_gpu(
    tmp_path: Path, smollm2_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The product's own path and transformers' Trainer, on a shape with random weights."""
    from benchmarks.training.harness.setup import Options
    from benchmarks.training.peers import compare

    (tmp_path / smollm2_path.name).symlink_to(smollm2_path)
    monkeypatch.setenv("RAFTLINE_MODEL_CACHE", str(tmp_path))
    options = Options(model="random:tiny", rows=2, micro_batch=1, steps=2)
    assert compare("peers", options, ("raftline", "hf-trainer"), 1, tmp_path / "log")
    printed = capsys.readouterr().out
    assert "on cuda" in printed
    assert "raftline is" in printed
