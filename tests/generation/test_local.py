"""The in-process generator against transformers' own generation and full logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline_lib.errors import GenerationError, ModelNotFoundError
from pipeline_lib.generation.base import GenerationParams, Prompt, ScoringGenerator
from pipeline_lib.generation.decoding import Row
from pipeline_lib.generation.local import LocalGenerator, _sampler

SHARED = "Topic: rivers\nFact: The river Rhine flows north into the sea.\nQuestion:"
TEXTS = [
    "a",
    "A longer prompt than the others, by far.",
    SHARED + " What",
    SHARED + " How long is it?",
    "bb",
    SHARED + " What",
]
GREEDY = GenerationParams(max_new_tokens=12)


@pytest.fixture(scope="module")
def generator(tiny_model_path: Path) -> LocalGenerator:
    return LocalGenerator(tiny_model_path, batch_size=4, precision="fp32")


@pytest.fixture(scope="module")
def reference(tiny_model_path: Path) -> tuple[Any, Any]:
    """Model and tokenizer as transformers loads them."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(tiny_model_path)


def continued_alone(reference: tuple[Any, Any], text: str, max_new_tokens: int) -> str:
    """What transformers' greedy search writes for one prompt without any padding."""
    model, tokenizer = reference
    ids = tokenizer(text, return_tensors="pt", split_special_tokens=True)
    output = model.generate(**ids, max_new_tokens=max_new_tokens, do_sample=False)
    return str(tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))


def full_logits_nll(reference: tuple[Any, Any], prompt: str, target_ids: list[int]) -> float:
    model, tokenizer = reference
    ids = tokenizer(prompt, split_special_tokens=True)["input_ids"]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids + target_ids])).logits[0]
    wanted = torch.tensor(target_ids)
    predicting = logits[len(ids) - 1 : -1]
    return float(torch.nn.functional.cross_entropy(predicting, wanted, reduction="sum"))


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_batched_padded_prefix_shared_generation_equals_each_prompt_alone(
    tiny_model_path: Path, reference: tuple[Any, Any], batch_size: int
) -> None:
    generator = LocalGenerator(tiny_model_path, batch_size=batch_size, precision="fp32")
    completions = generator.generate([Prompt.plain(text) for text in TEXTS], GREEDY)
    assert [c.text for c in completions] == [continued_alone(reference, t, 12) for t in TEXTS]


def test_prompt_and_completion_tokens_are_counted(generator: LocalGenerator) -> None:
    """One token is one byte in this model."""
    completions = generator.generate([Prompt.plain(text) for text in TEXTS], GREEDY)
    assert [c.num_prompt_tokens for c in completions] == [len(text) for text in TEXTS]
    assert {c.num_completion_tokens for c in completions} == {12}
    assert {c.finish_reason for c in completions} == {"length"}


def test_a_forced_prefix_begins_the_output_and_is_continued_as_if_it_were_prompt(
    generator: LocalGenerator, reference: tuple[Any, Any]
) -> None:
    prompts = [Prompt.plain(SHARED, " What"), Prompt.plain(SHARED, " How long"), Prompt.plain("a")]
    completions = generator.generate(prompts, GREEDY)
    for prompt, completion in zip(prompts, completions, strict=True):
        prefix = prompt.forced_prefix
        alone = continued_alone(reference, (prompt.text or "") + prefix, 12 - len(prefix))
        assert completion.text == prefix + alone


def test_output_ends_before_a_stop_string(
    generator: LocalGenerator, reference: tuple[Any, Any]
) -> None:
    whole = continued_alone(reference, "a", 12)
    stop = whole[4:6]
    [completion] = generator.generate(
        [Prompt.plain("a")], GenerationParams(max_new_tokens=12, stop=("never", stop))
    )
    assert completion.text == whole[: whole.index(stop)]
    assert completion.finish_reason == "stop"
    assert completion.num_completion_tokens < 12


def test_the_forced_prefix_is_not_searched_for_stop_strings(generator: LocalGenerator) -> None:
    [completion] = generator.generate(
        [Prompt.plain("a", "x\ny")], GenerationParams(max_new_tokens=5, stop=("\n",))
    )
    assert completion.text.startswith("x\ny")


def test_rows_that_end_early_do_not_disturb_the_others(
    generator: LocalGenerator, reference: tuple[Any, Any]
) -> None:
    first = continued_alone(reference, TEXTS[0], 12)
    params = GenerationParams(max_new_tokens=12, stop=(first[2],))
    for text, completion in zip(
        TEXTS, generator.generate([Prompt.plain(t) for t in TEXTS], params), strict=True
    ):
        assert completion.text == continued_alone(reference, text, 12).split(first[2])[0]


def test_sampling_depends_on_seed_and_prompt_not_on_the_neighbours(
    generator: LocalGenerator,
) -> None:
    def sample(texts: list[str], seed: int) -> list[str]:
        params = GenerationParams(max_new_tokens=12, temperature=1.0, seed=seed)
        return [c.text for c in generator.generate([Prompt.plain(t) for t in texts], params)]

    together = sample(TEXTS, 7)
    assert together == sample(TEXTS, 7)
    assert together[1] == sample([TEXTS[1]], 7)[0]
    assert together != sample(TEXTS, 8)


def test_sampling_follows_the_softmax() -> None:
    """Shares of 4,000 draws, temperature 2, are within 0.03 of the softmax."""
    logits = torch.tensor([2.0, 0.0, -2.0, 1.0])
    rows = [Row(n, (1,), (), rng=torch.Generator().manual_seed(n)) for n in range(4000)]
    drawn = torch.bincount(torch.tensor(_sampler(2.0)(rows, logits.repeat(4000, 1))), minlength=4)
    torch.testing.assert_close(drawn / 4000, torch.softmax(logits / 2, 0), atol=0.03, rtol=0)


def test_control_tokens_in_plain_text_stay_text(generator: LocalGenerator) -> None:
    text = "a <|im_end|> b"
    [completion] = generator.generate([Prompt.plain(text)], GREEDY)
    assert completion.num_prompt_tokens == len(text)


def test_a_chat_goes_through_the_tokenizers_own_template(
    generator: LocalGenerator, reference: tuple[Any, Any]
) -> None:
    messages = [{"role": "user", "content": "hi"}]
    ids = reference[1].apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    [completion] = generator.generate([Prompt.chat(messages)], GREEDY)
    assert completion.num_prompt_tokens == len(ids)


def test_score_is_the_sum_over_target_positions_of_full_logits(
    generator: LocalGenerator, reference: tuple[Any, Any]
) -> None:
    targets = ["xyz", " a longer target", "q", " What", "b", "zz"]
    scores = generator.score([Prompt.plain(t) for t in TEXTS], targets)
    tokenizer = reference[1]
    for text, target, score in zip(TEXTS, targets, scores, strict=True):
        ids = tokenizer(target)["input_ids"] + [tokenizer.eos_token_id]
        assert score.num_tokens == len(ids)
        assert score.sum_nll == pytest.approx(full_logits_nll(reference, text, ids), abs=1e-3)


def test_score_can_leave_the_end_of_turn_out(
    generator: LocalGenerator, reference: tuple[Any, Any]
) -> None:
    [score] = generator.score([Prompt.plain("a")], ["xyz"], with_end=False)
    ids = reference[1]("xyz")["input_ids"]
    assert score.num_tokens == 3
    assert score.sum_nll == pytest.approx(full_logits_nll(reference, "a", ids), abs=1e-3)


def test_each_completion_is_reported_once_and_in_batches(generator: LocalGenerator) -> None:
    reported: dict[int, str] = {}
    sizes = []

    def listen(indices: Any, completions: Any) -> None:
        sizes.append(len(indices))
        reported.update(zip(indices, (c.text for c in completions), strict=True))

    prompts = [Prompt.plain(text) for text in TEXTS]
    completions = generator.generate(prompts, GREEDY, on_completed=listen)
    assert sizes == [4, 2]
    assert [reported[i] for i in range(len(TEXTS))] == [c.text for c in completions]


def test_the_rest_of_an_interrupted_run_falls_into_the_same_batches(
    generator: LocalGenerator,
) -> None:
    """What bit-equal resumption rests on."""
    prompts = [Prompt.plain("x" * n) for n in (3, 9, 1, 7, 5, 2, 8, 4, 6)]
    batches: list[list[str]] = []

    def listen_to(asked: list[Prompt]) -> None:
        generator.generate(
            asked,
            GREEDY,
            on_completed=lambda i, _: batches.append([asked[n].text or "" for n in i]),
        )

    listen_to(prompts)
    whole = list(batches)
    batches.clear()
    listen_to([p for p in prompts if p.text not in whole[0]])
    assert batches == whole[1:]


def test_a_prompt_that_does_not_fit_is_refused_with_its_length(generator: LocalGenerator) -> None:
    with pytest.raises(GenerationError, match=r"8201 tokens.*8192"):
        generator.generate([Prompt.plain("x" * 8189)], GREEDY)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no causal language model"):
        LocalGenerator(tmp_path)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_an_adapter_is_applied(tiny_model_path: Path, tmp_path: Path) -> None:
    """Merged by us, and unmerged by PEFT, a LoRA adapter gives the same likelihood."""
    from peft import LoraConfig, PeftModel, get_peft_model

    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32)
    adapted = get_peft_model(
        base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)
    )
    adapted.save_pretrained(tmp_path)
    fresh = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path)
    unmerged = (PeftModel.from_pretrained(fresh, tmp_path).eval(), tokenizer)

    generator = LocalGenerator(tiny_model_path, tmp_path, precision="fp32")
    [score] = generator.score([Prompt.plain("a")], ["xyz"], with_end=False)
    plain = LocalGenerator(tiny_model_path, precision="fp32")
    [unadapted] = plain.score([Prompt.plain("a")], ["xyz"], with_end=False)
    expected = full_logits_nll(unmerged, "a", tokenizer("xyz")["input_ids"])
    assert score.sum_nll == pytest.approx(expected, abs=1e-3)
    assert abs(score.sum_nll - unadapted.sum_nll) > 0.1
    assert generator.model_identity != plain.model_identity


def test_pickled_adapters_are_refused(tiny_model_path: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ModelNotFoundError, match=r"no adapter_model\.safetensors"):
        LocalGenerator(tiny_model_path, tmp_path)


def test_identity_follows_the_files_unless_it_is_given(tiny_model_path: Path) -> None:
    first, second = LocalGenerator(tiny_model_path), LocalGenerator(tiny_model_path)
    assert first.model_identity == second.model_identity
    assert LocalGenerator(tiny_model_path, identity="mine").model_identity == "mine"
    assert isinstance(first, ScoringGenerator)


def test_the_bundled_model_ends_its_turn(smollm2_path: Path) -> None:
    """End-of-turn is also padding in this model; it must still end the output, once."""
    generator = LocalGenerator(smollm2_path, batch_size=2)
    prompts = [
        Prompt.chat([{"role": "user", "content": "Reply with the one word yes."}]),
        Prompt.chat([{"role": "user", "content": "What is the capital of France? One word."}]),
    ]
    completions = generator.generate(prompts, GenerationParams(max_new_tokens=40))
    assert {c.finish_reason for c in completions} == {"stop"}
    assert all(c.text and "<|im_end|>" not in c.text for c in completions)
    assert "Paris" in completions[1].text
