"""Two phases against PEFT's own activated LoRA, which reads each row in one pass."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.errors import ConfigError, TrainingError
from pipeline_lib.training.activated import (
    ActivatedRow,
    Calls,
    answer_nlls,
    count_calls,
    cut_row,
    idle_calls,
    invocation_tokens,
)
from pipeline_lib.training.examples import Example, write_examples
from pipeline_lib.training.plan import EXPORT_FOLDER

from .conftest import PlanFactory
from .warm_ranks import history, train

# PEFT reads a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

INVOCATION = (1, 100, 101)


def activated_model(path: Path, invocation: tuple[int, ...] = INVOCATION) -> Any:
    """The tiny model in fp32 with an adapter whose two halves are both random."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        alora_invocation_tokens=list(invocation),
    )
    torch.manual_seed(1)
    model = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return model


def random_row(rng: random.Random, prompt: tuple[int, ...], group: str | None = None) -> Any:
    answer = tuple(rng.randrange(3, 259) for _ in range(rng.randrange(1, 9)))
    ids = (*prompt, *INVOCATION, *answer)
    return cut_row("r", ids, len(ids) - len(answer), INVOCATION, prompt_group=group)


def random_ids(rng: random.Random, count: int) -> tuple[int, ...]:
    return tuple(rng.randrange(3, 259) for _ in range(count))


def gradients(model: Any) -> dict[str, Any]:
    found = {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    model.zero_grad()
    return found


def one_pass(model: Any, rows: list[ActivatedRow]) -> Any:
    """PEFT's way: the whole row, with offsets that it finds itself; the sum over answer tokens."""
    import torch

    total = torch.zeros(())
    for row in rows:
        ids = torch.tensor([[*row.prompt, *row.tail]])
        logits = model(input_ids=ids).logits[0, -len(row.targets) - 1 : -1]
        total = total + torch.nn.functional.cross_entropy(
            logits, torch.tensor(row.targets), reduction="sum"
        )
    return total


@pytest.mark.parametrize("sharing", [False, True])
def test_loss_and_gradients_are_those_of_one_pass_over_each_row(
    tiny_model_path: Path, sharing: bool
) -> None:
    import torch

    rng = random.Random(0)
    if sharing:
        context = random_ids(rng, 60)
        rows = [random_row(rng, context + random_ids(rng, n), "context") for n in (5, 12, 0, 7)]
        assert count_calls(rows) == Calls(num_prompt=4, num_answer=4)
    else:
        rows = [random_row(rng, random_ids(rng, count)) for count in (40, 3, 25)]
        assert count_calls(rows) == Calls(num_prompt=3, num_answer=3)
    model = activated_model(tiny_model_path)
    expected = one_pass(model, rows)
    expected.backward()
    expected_gradients = gradients(model)

    loss = torch.cat(answer_nlls(model, rows)).sum()
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for name, gradient in gradients(model).items():
        assert gradient.abs().max() > 1e-3, name
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-5, atol=1e-6)


def test_the_answer_depends_on_the_adapter_and_the_prompts_keys_do_not(
    tiny_model_path: Path,
) -> None:
    """With the adapter off everywhere, the loss is another one."""
    import torch

    rng = random.Random(1)
    row = random_row(rng, random_ids(rng, 30))
    model = activated_model(tiny_model_path)
    [nll] = answer_nlls(model, [row])
    with torch.no_grad(), model.disable_adapter():
        base = one_pass(model, [row])
    assert abs(nll.sum().item() - base.item()) > 1e-3


def test_rows_come_back_in_their_order_whatever_their_groups(tiny_model_path: Path) -> None:
    import torch

    rng = random.Random(2)
    context = random_ids(rng, 20)
    groups = ["a", None, "a", None]
    rows = [random_row(rng, context + random_ids(rng, 4), group) for group in groups]
    model = activated_model(tiny_model_path)
    together = answer_nlls(model, rows)
    for row, nll in zip(rows, together, strict=True):
        torch.testing.assert_close(nll, answer_nlls(model, [row])[0], rtol=1e-5, atol=1e-5)


def test_idle_calls_add_nothing(tiny_model_path: Path) -> None:
    model = activated_model(tiny_model_path)
    loss = idle_calls(model, Calls(num_prompt=2, num_answer=2))
    loss.backward()
    assert loss.item() == 0
    assert all(gradient.abs().max() == 0 for gradient in gradients(model).values())


def test_the_invocation_is_the_templates_generation_prompt(tiny_model_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path)
    assert tokenizer.decode(invocation_tokens(tokenizer)) == "<|im_start|>assistant\n"


def test_a_template_without_generation_prompt_is_refused(tiny_model_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path)
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    with pytest.raises(ConfigError, match="no generation prompt"):
        invocation_tokens(tokenizer)


def test_a_prompt_that_does_not_end_with_the_invocation_is_refused() -> None:
    with pytest.raises(
        TrainingError, match=r"Row r: the prompt ends with the tokens \(7, 1, 100\)"
    ):
        cut_row("r", (5, 7, 1, 100, 9), 4, INVOCATION)


@pytest.mark.slow
def test_ranks_under_zero_3_learn_what_one_pass_over_all_rows_would(
    tiny_model_path: Path, make_plan: PlanFactory, tmp_path: Path
) -> None:
    """Seven rows, some of one context, on two ranks: passes differ in number from rank to rank."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    invocation = invocation_tokens(AutoTokenizer.from_pretrained(tiny_model_path))
    rng = random.Random(4)
    context = random_ids(rng, 50)
    examples = [
        made_example(rng, str(number), prompt, "context" if shared else "")
        for number in range(7)
        for shared in [number < 3]
        for prompt in [(*(context if shared else ()), *random_ids(rng, 10 + number), *invocation)]
    ]
    start = tmp_path / "start"
    activated_model(tiny_model_path, invocation).save_pretrained(start)
    plan = make_plan(
        "run",
        examples,
        method="activated_lora",
        lora={"r": 4, "alpha": 8},
        engine={"zero_stage": 3},
        supervised={"max_steps": 1},
    ).model_copy(update={"adapter_path": start})
    write_examples(plan.files["validation"], examples[:2])
    train(plan)

    model = activated_model(tiny_model_path, invocation)
    rows = [cut_row(e.row_id, e.input_ids, e.num_prompt_tokens, invocation) for e in examples]
    loss = one_pass(model, rows) / sum(example.num_loss_tokens for example in examples)
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.requires_grad])
    assert history(plan) == {1: pytest.approx(loss.item(), rel=1e-4)}
    assert history(plan, "grad_norm") == {1: pytest.approx(norm.item(), rel=1e-3)}
    base = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32)
    trained = PeftModel.from_pretrained(base, plan.run_folder / EXPORT_FOLDER)
    assert trained.peft_config["default"].alora_invocation_tokens == list(invocation)


def made_example(rng: random.Random, row_id: str, prompt: tuple[int, ...], group: str) -> Example:
    answer = random_ids(rng, rng.randrange(2, 20))
    return Example(row_id, (*prompt, *answer), len(prompt), prompt_group=group)
