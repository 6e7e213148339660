"""Preference training: what the loss is, what the reference is, and that the better answer wins."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.config import FinetuneConfig
from pipeline_lib.config.training import Method
from pipeline_lib.errors import InputError
from pipeline_lib.raft.rendering import render_prompt
from pipeline_lib.training.defaults import learning_rate_of, num_epochs_of
from pipeline_lib.training.estimate.parameters import ModelBuild, build_skeleton, model_sizes
from pipeline_lib.training.estimate.states import state_memory
from pipeline_lib.training.examples import Example, write_examples
from pipeline_lib.training.objectives.preferences import PairFile
from pipeline_lib.training.plan import TrainingPlan

from .made_pairs import pair, prepared
from .training_here import make_trainer, preempt_here
from .warm_ranks import history, train

pytestmark = [
    # peft reads a property that transformers has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]
ONE_RANK: dict[str, Any] = {"engine": {"zero_stage": 0}, "launch": {"num_processes": 1}}
PairPlan = Callable[..., TrainingPlan]


def random_pairs(count: int, seed: int = 0) -> list[Example]:
    """Chosen and rejected answers in turn: prompts of 40 to 60 tokens, answers of 4 to 20."""
    rng = random.Random(seed)

    def ids(low: int, high: int) -> list[int]:
        return [rng.randrange(3, 259) for _ in range(rng.randrange(low, high))]

    made = []
    for number in range(count):
        prompt = ids(40, 60)
        made += [
            Example(
                str(number),
                [*prompt, *ids(4, 20)],
                len(prompt),
                task="stitched",
                prompt_group=str(number),
            )
            for _answer in ("chosen", "rejected")
        ]
    return made


@pytest.fixture
def pair_plan(tiny_model_path: Path, tmp_path: Path) -> PairPlan:
    """Plans over 7 random pairs, 3 to validate on."""

    def build(
        name: str, layout: Any = "packed", adapter: Path | None = None, **sections: Any
    ) -> TrainingPlan:
        folder = tmp_path / name
        folder.mkdir()
        write_examples(folder / "train.arrow", random_pairs(7))
        write_examples(folder / "validation.arrow", random_pairs(3, seed=1))
        batch = {"global_batch_size": 4, "micro_batch_size": 2}
        config = FinetuneConfig.model_validate({"stages": ("dpo",), "batch": batch} | sections)
        return TrainingPlan(
            config=config,
            batch=config.batch_arithmetic,
            base_model_path=tiny_model_path,
            adapter_path=adapter,
            files={split: folder / f"{split}.arrow" for split in ("train", "validation")},
            run_folder=folder,
            layout=layout,
            device="cpu",
            precision="fp32",
            learning_rate=learning_rate_of(config, tiny_model_path),
            num_epochs=num_epochs_of(config, 7),
        )

    return build


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Callable[[TrainingPlan], Any]:
    """Makes the trainer of a plan in this process, which is its only rank."""
    monkeypatch.setenv("RANK", "0")

    return make_trainer


def disturb(trainer: Any) -> None:
    """Move the weights away from the reference; the same way each time."""
    import torch

    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
            assert ".ref." not in name or not parameter.requires_grad


def summed_log_prob(model: Any, example: Example) -> float:
    """Of the answer, from all logits."""
    import torch

    ids = torch.tensor([list(example.input_ids)])
    with torch.no_grad():
        log_probs = model(input_ids=ids).logits[0, :-1].log_softmax(dim=-1)
    tokens = log_probs.gather(1, ids[0, 1:, None])[:, 0]
    return float(tokens[example.num_prompt_tokens - 1 :].sum())


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("loss", ["sigmoid", "hinge", "ipo"])
def test_the_loss_is_the_formula_and_trls(
    pair_plan: PairPlan,
    trainer: Callable[[TrainingPlan], Any],
    tiny_model_path: Path,
    layout: str,
    loss: str,
) -> None:
    import torch
    from transformers import AutoModelForCausalLM
    from trl import DPOTrainer
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    plan = pair_plan("run", layout, preferences={"loss": loss, "beta": 0.3}, **ONE_RANK)
    made = trainer(plan)
    disturb(made)
    pairs = PairFile(plan.files["train"])[:3]
    inputs = made._prepare_inputs(made._collate(pairs))
    found = made.compute_loss(made.model, inputs, num_items_in_batch=torch.tensor(3.0))
    found.backward()
    gradient = {n: p.grad.clone() for n, p in made.model.named_parameters() if p.grad is not None}

    bare = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32)
    by_hand = []
    for both in pairs:
        gains = [summed_log_prob(made.model, e) - summed_log_prob(bare, e) for e in both]
        margin = 0.3 * (gains[0] - gains[1])
        means = [gain / e.num_loss_tokens for gain, e in zip(gains, both, strict=True)]
        by_hand.append(
            {
                "sigmoid": torch.nn.functional.softplus(torch.tensor(-margin)).item(),
                "hinge": max(0.0, 1 - margin),
                "ipo": (means[0] - means[1] - 1 / 0.6) ** 2,
            }[loss]
        )
    assert found.item() == pytest.approx(sum(by_hand) / 3, rel=1e-4)

    made.model.zero_grad()
    theirs = DataCollatorForPreference(pad_token_id=0)(
        [
            {
                "prompt_ids": list(chosen.input_ids[: chosen.num_prompt_tokens]),
                "chosen_ids": list(chosen.input_ids[chosen.num_prompt_tokens :]),
                "rejected_ids": list(rejected.input_ids[rejected.num_prompt_tokens :]),
            }
            for chosen, rejected in pairs
        ]
    )
    expected = DPOTrainer._compute_loss(made, made.model, theirs, return_outputs=False)
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in made.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradient[name], parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_reference_is_the_model_that_the_stage_begins_with(
    pair_plan: PairPlan,
    trainer: Callable[[TrainingPlan], Any],
    tiny_model_path: Path,
    tmp_path: Path,
    method: str,
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    first = trainer(pair_plan("first", method=method, **ONE_RANK))
    disturb(first)
    adapter = None
    if method == "lora":
        adapter = tmp_path / "adapter"
        first.model.save_pretrained(adapter)
    made = trainer(pair_plan("second", adapter=adapter, method=method, **ONE_RANK))
    before = made.validate()
    assert before["loss"] == pytest.approx(0.693147, abs=1e-6)  # log 2: nothing gained, or lost
    assert before["margin"] == 0.0
    if method == "lora":  # and it is not the bare base model
        bare = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32)
        example = random_pairs(1)[0]
        gained = summed_log_prob(made.model, example) - summed_log_prob(bare, example)
        assert abs(gained) > 0.01


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_reference_takes_as_much_memory_as_is_estimated(
    pair_plan: PairPlan, trainer: Callable[[TrainingPlan], Any], method: Method
) -> None:
    plan = pair_plan("run", method=method, **ONE_RANK)
    made = trainer(plan)
    model = made.ref_model or made.model
    taken = sum(
        parameter.nbytes
        for name, parameter in model.named_parameters()
        if made.ref_model is not None or ".ref." in name
    )
    build = ModelBuild.of(plan.config, plan.base_model_path, plan.precision)
    sizes = model_sizes(build_skeleton(build), method)
    assert state_memory(sizes, plan.config, "fp32", "cpu").on_device["reference"] == taken


def test_chosen_answers_gain_and_the_log_says_by_how_much(
    pair_plan: PairPlan, trainer: Callable[[TrainingPlan], Any]
) -> None:
    settings = {"max_steps": 6, "learning_rate": 1e-2}
    made = trainer(pair_plan("run", preferences=settings, **ONE_RANK))
    made.watch()
    made.train()
    steps = [entry for entry in made.state.log_history if "loss" in entry]
    assert [entry["rows"] for entry in steps] == [4, 3, 4, 3, 4, 3]
    assert steps[0]["loss"] == pytest.approx(0.693147, abs=1e-6)
    assert steps[-1]["loss"] < 0.6
    assert steps[-1]["rewards/accuracies"] == 1.0
    assert steps[-1]["rewards/chosen"] > 0 > steps[-1]["rewards/rejected"]
    margin = steps[-1]["rewards/chosen"] - steps[-1]["rewards/rejected"]
    assert steps[-1]["rewards/margins"] == pytest.approx(margin)
    validated = [entry for entry in made.state.log_history if "eval_loss" in entry]
    assert [entry["step"] for entry in validated] == [0, 6]
    assert (validated[0]["eval_accuracy"], validated[0]["eval_margin"]) == (0.5, 0)
    assert validated[1]["eval_margin"] > 0


def test_how_a_step_is_cut_does_not_change_it(
    pair_plan: PairPlan, trainer: Callable[[TrainingPlan], Any]
) -> None:
    """Steps of 4 and 3 pairs, in micro batches of 4, 2 and 1; with 1, the last one is empty."""
    logs = []
    for micro in (4, 2, 1):
        batch = {"global_batch_size": 4, "micro_batch_size": micro}
        made = trainer(
            pair_plan(f"run-{micro}", batch=batch, preferences={"max_steps": 3}, **ONE_RANK)
        )
        made.train()
        logs.append([entry for entry in made.state.log_history if "loss" in entry])
    for key in ("loss", "grad_norm", "rewards/margins"):
        whole, halves, single = ([entry[key] for entry in log] for log in logs)
        assert halves == pytest.approx(whole, rel=1e-4, abs=1e-6)
        assert single == pytest.approx(whole, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("method", "step"), [("lora", 2), ("full", 3)])
def test_a_preempted_run_goes_on_as_if_it_had_never_stopped(
    pair_plan: PairPlan,
    trainer: Callable[[TrainingPlan], Any],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    step: int,
) -> None:
    """Within an epoch of two steps and at its end; the reference is still that of the start."""
    settings: dict[str, Any] = {
        "method": method,
        "lora": {"dropout": 0.2},
        "preferences": {"num_epochs": 2.0, "learning_rate": 1e-2},
    } | ONE_RANK
    logs = []
    whole = pair_plan("whole", **settings)
    checkpoint = preempt_here(pair_plan("told", **settings), monkeypatch, step)
    resumed = pair_plan("resumed", **settings).model_copy(update={"resume_from": checkpoint})
    for plan in (whole, resumed):
        made = trainer(plan)
        made.watch()
        made.train(resume_from_checkpoint=plan.resume_from and str(plan.resume_from))
        logs.append(made.state.log_history)
    for key in ("loss", "grad_norm", "learning_rate", "rewards/margins", "eval_loss"):
        never_stopped, gone_on = (
            {entry["step"]: entry[key] for entry in log if key in entry} for log in logs
        )
        assert gone_on == never_stopped, key
        assert 4 in never_stopped


def test_pairs_are_rendered_as_rows_are(tmp_path: Path, tiny_model_path: Path) -> None:
    from transformers import AutoTokenizer

    pairs = [pair(1), pair(2), pair(3, "validation"), pair(4, "test")]
    found = prepared(tmp_path, tiny_model_path, pairs)
    assert found.counts == {"num_train_rows": 2, "num_validation_rows": 1}
    assert found.details == {"pairs_by_fault": {"misattributed": 2}}
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path)
    chosen, rejected = PairFile(found.files["train"])[0]
    messages = render_prompt(pairs[0]["question"], pairs[0]["context"])
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    for example, answer in ((chosen, "chosen"), (rejected, "rejected")):
        border = example.num_prompt_tokens
        assert tokenizer.decode(example.input_ids[:border]) == prompt
        assert tokenizer.decode(example.input_ids[border:]) == f"{pairs[0][answer]}<|im_end|>"


def test_the_prompt_of_a_pair_counts_once(tmp_path: Path) -> None:
    write_examples(tmp_path / "pairs.arrow", random_pairs(2))
    pairs = PairFile(tmp_path / "pairs.arrow")
    expected = [
        len(chosen.input_ids) + len(rejected.input_ids) - chosen.num_prompt_tokens
        for chosen, rejected in pairs
    ]
    assert pairs.lengths == expected
    assert len(pairs) == 2


def test_without_validation_pairs_some_are_held_out_whole_rows_at_a_time(
    tmp_path: Path, tiny_model_path: Path
) -> None:
    pairs = [pair(number, row=number // 2) for number in range(8)]
    found = prepared(tmp_path, tiny_model_path, pairs)
    train, validation = (
        {example.row_id for both in PairFile(found.files[split]) for example in both}
        for split in ("train", "validation")
    )
    assert len(train | validation) == 8
    assert not train & validation
    assert validation
    rows_of = [
        {int(name.removeprefix("pair-")) // 2 for name in names} for names in (train, validation)
    ]
    assert not rows_of[0] & rows_of[1]


def test_a_dataset_without_pairs_is_refused_with_the_option_that_makes_them(
    tmp_path: Path, tiny_model_path: Path
) -> None:
    with pytest.raises(InputError, match="no preference pairs") as raised:
        prepared(tmp_path, tiny_model_path, [pair(1, "validation")])
    assert "synthesize.preferences.share" in str(raised.value.hint)


@pytest.mark.slow
def test_two_ranks_of_zero_3_go_on_with_an_adapter_as_one_process_does(
    pair_plan: PairPlan, trainer: Callable[[TrainingPlan], Any], tmp_path: Path
) -> None:
    first = trainer(pair_plan("first", **ONE_RANK))
    disturb(first)
    adapter = tmp_path / "adapter"
    first.model.save_pretrained(adapter)
    batch = {"global_batch_size": 4, "micro_batch_size": 1}
    settings: dict[str, Any] = {"batch": batch, "preferences": {"max_steps": 3}}
    alone = trainer(pair_plan("alone", adapter=adapter, **settings, **ONE_RANK))
    alone.watch()
    alone.train()
    ranks = pair_plan("ranks", adapter=adapter, engine={"zero_stage": 3}, **settings)
    train(ranks)
    for key in ("loss", "grad_norm", "rewards/margins", "eval_loss"):
        expected = {e["step"]: e[key] for e in alone.state.log_history if key in e}
        assert history(ranks, key) == pytest.approx(expected, rel=1e-4, abs=1e-6), key
    own = [p.numel() for name, p in first.model.named_parameters() if ".ref." not in name]
    started = json.loads(ranks.events_path.read_text().splitlines()[0])
    assert started["num_parameters"] == sum(own)
