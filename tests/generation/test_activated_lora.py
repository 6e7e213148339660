"""An activated LoRA answers as PEFT's own generation does, and leaves prompts to the base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline_lib.errors import GenerationError
from pipeline_lib.generation.base import GenerationParams, Prompt
from pipeline_lib.generation.local import LocalGenerator

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

QUESTIONS = ["How high is the tower?", "Why?", "Who built the old bridge over the river, and when?"]
PARAMS = GenerationParams(max_new_tokens=12)


@pytest.fixture
def adapter(tiny_model_path: Path, tmp_path: Path) -> Path:
    """A strong random adapter that is on from the generation prompt."""
    from peft import LoraConfig, get_peft_model

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path)
    torch.manual_seed(1)
    config = LoraConfig(
        r=4,
        lora_alpha=16,
        target_modules="all-linear",
        init_lora_weights=False,
        task_type="CAUSAL_LM",
        alora_invocation_tokens=tokenizer("<|im_start|>assistant\n")["input_ids"],
    )
    get_peft_model(load(tiny_model_path), config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def load(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def chats() -> list[Prompt]:
    return [Prompt.chat([{"role": "user", "content": question}]) for question in QUESTIONS]


def test_answers_are_those_of_pefts_own_generation(tiny_model_path: Path, adapter: Path) -> None:
    """One chat at a time there, all in one batch here."""
    from peft import PeftModel

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path)
    model = PeftModel.from_pretrained(load(tiny_model_path), adapter).eval()
    expected = []
    for question in QUESTIONS:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        output = model.generate(**ids, max_new_tokens=12, do_sample=False)
        new = output[0, ids["input_ids"].shape[1] :]
        expected.append(tokenizer.decode(new, skip_special_tokens=True))
    generator = LocalGenerator(tiny_model_path, adapter, precision="fp32")
    texts = [completion.text for completion in generator.generate(chats(), PARAMS)]
    assert texts == expected
    base = LocalGenerator(tiny_model_path, precision="fp32")
    assert texts != [completion.text for completion in base.generate(chats(), PARAMS)]


def test_scores_are_those_of_one_pass_over_prompt_and_target(
    tiny_model_path: Path, adapter: Path
) -> None:
    from peft import PeftModel

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path)
    model = PeftModel.from_pretrained(load(tiny_model_path), adapter).eval()
    generator = LocalGenerator(tiny_model_path, adapter, precision="fp32")
    scores = generator.score(chats(), ["tall", "no", "them"], with_end=False)
    for question, target, score in zip(QUESTIONS, ["tall", "no", "them"], scores, strict=True):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
        )
        labels = tokenizer(target)["input_ids"]
        ids = torch.tensor([tokenizer(prompt)["input_ids"] + labels])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, -len(labels) - 1 : -1]
        nll = torch.nn.functional.cross_entropy(logits, torch.tensor(labels), reduction="sum")
        assert score.sum_nll == pytest.approx(nll.item(), abs=1e-4)


def test_plain_text_is_continued_by_the_base_model(tiny_model_path: Path, adapter: Path) -> None:
    prompts = [Prompt.plain("Once upon"), Prompt.plain("The end")]
    adapted = LocalGenerator(tiny_model_path, adapter, precision="fp32")
    base = LocalGenerator(tiny_model_path, precision="fp32")
    assert adapted.generate(prompts, PARAMS) == base.generate(prompts, PARAMS)


def test_chats_and_plain_texts_in_one_batch_are_refused(
    tiny_model_path: Path, adapter: Path
) -> None:
    generator = LocalGenerator(tiny_model_path, adapter, precision="fp32")
    with pytest.raises(GenerationError, match="cannot be continued in one batch"):
        generator.generate([*chats(), Prompt.plain("Once upon")], PARAMS)
