"""Domain-adaptive pre-training: every token of the documents once, measured on others."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_lib.config import FinetuneConfig
from pipeline_lib.errors import InputError
from pipeline_lib.raft.derived.pretraining import PRETRAINING_FILE, PRETRAINING_SCHEMA
from pipeline_lib.training.blocks import cut_blocks, end_of_document_id, take_tokens
from pipeline_lib.training.defaults import learning_rate_of, num_epochs_of
from pipeline_lib.training.examples import Example, ExampleFile
from pipeline_lib.training.objectives import objective_named
from pipeline_lib.training.objectives.base import Prepared
from pipeline_lib.training.plan import TrainingPlan
from pipeline_lib.training.replay import read_replay, replay_identity

from .conftest import prepare_job
from .training_here import ONE_RANK, make_trainer, train_here

END = 0
"""`<|endoftext|>` of the tiny model."""
DOCUMENTS = [f"Page {number} speaks of river {number}. " * 4 for number in range(10)]
GENERAL = [f"It was {number} o'clock when the rain stopped. " * 5 for number in range(12)]


def test_every_token_is_learned_once() -> None:
    blocks = list(cut_blocks([[1, 2], [3]], end_id=0, block_tokens=3))
    assert blocks == [[0, 1, 2], [2, 0, 3], [3, 0]]
    learned = [token for block in blocks for token in block[1:]]
    assert learned == [1, 2, 0, 3, 0]


@pytest.mark.parametrize("block_tokens", [2, 3, 5, 64])
def test_blocks_cover_documents_of_any_length(block_tokens: int) -> None:
    documents = [list(range(1, 1 + length)) for length in (1, 17, 4, 30)]
    blocks = list(cut_blocks(documents, end_id=0, block_tokens=block_tokens))
    assert all(len(block) == block_tokens for block in blocks[:-1])
    assert 2 <= len(blocks[-1]) <= block_tokens
    learned = [token for block in blocks for token in block[1:]]
    assert learned == [token for document in documents for token in (*document, 0)]


def test_tokens_are_taken_exactly() -> None:
    taken = list(take_tokens(iter([[0, 1, 2], [2, 3, 4], [4, 5, 6]]), 3))
    assert taken == [[0, 1, 2], [2, 3]]
    assert list(take_tokens(iter([[0, 1]]), 0)) == []


def test_between_documents_is_what_pre_training_had_there(tiny_model_path: Path) -> None:
    """And not the end of a turn, which is `eos_token` of the chat model."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path)
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.convert_ids_to_tokens(end_of_document_id(tokenizer)) == "<|endoftext|>"


def write_dataset(folder: Path, texts: list[str]) -> None:
    records = [
        {"document_id": f"document-{n}", "title": f"Page {n}", "text": text, "source_uri": ""}
        for n, text in enumerate(texts)
    ]
    table = pa.Table.from_pylist(records, schema=PRETRAINING_SCHEMA)
    pq.write_table(table, folder / PRETRAINING_FILE)


def config(**pretraining: Any) -> FinetuneConfig:
    sections = ONE_RANK | {
        "stages": ["dapt"],
        "batch": {"max_seq_len": 64, "micro_batch_size": 4, "global_batch_size": 8},
        "pretraining": {"learning_rate": 0.01} | pretraining,
    }
    return FinetuneConfig.model_validate(sections)


def prepare(folder: Path, model: Path, made: FinetuneConfig) -> Prepared:
    return objective_named("dapt").prepare(prepare_job(folder, model, made))


@pytest.fixture
def replay(tmp_path: Path) -> Path:
    path = tmp_path / "general" / "text.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in GENERAL))
    return path


def learned_text(examples: list[Example], tokenizer: Any) -> str:
    return str(tokenizer.decode([token for e in examples for token in e.input_ids[1:]]))


def test_one_document_in_twenty_is_held_out_and_the_others_are_learned(
    tmp_path: Path, tiny_model_path: Path
) -> None:
    from transformers import AutoTokenizer

    write_dataset(tmp_path, DOCUMENTS)
    prepared = prepare(tmp_path, tiny_model_path, config())
    assert prepared.counts["num_domain_documents"] == 9
    assert prepared.counts["num_held_out_documents"] == 1
    assert prepared.details["end_of_document"] == "<|endoftext|>"
    train, held_out = (list(ExampleFile(prepared.files[s])) for s in ("train", "validation"))
    assert {e.num_prompt_tokens for e in train} == {1}
    assert {e.task for e in train + held_out} == {"domain"}
    assert prepared.counts["num_domain_tokens"] == sum(e.num_loss_tokens for e in train)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path)
    (out,) = learned_text(held_out, tokenizer).split("<|endoftext|>")[:-1]
    assert out in DOCUMENTS
    learned = learned_text(train, tokenizer).split("<|endoftext|>")[:-1]
    assert learned == [text for text in DOCUMENTS if text != out]


def test_general_text_has_its_share_to_the_token(
    tmp_path: Path, tiny_model_path: Path, replay: Path
) -> None:
    write_dataset(tmp_path, DOCUMENTS)
    prepared = prepare(
        tmp_path, tiny_model_path, config(replay_path=str(replay), replay_share=0.25)
    )
    domain, general = (prepared.counts[f"num_{k}_tokens"] for k in ("domain", "general"))
    assert general == round(domain / 3)
    train = list(ExampleFile(prepared.files["train"]))
    assert sum(e.num_loss_tokens for e in train if e.task == "general") == general
    assert {e.task for e in ExampleFile(prepared.files["validation"])} == {"domain", "general"}


def test_the_seed_draws_the_general_text(
    tmp_path: Path, tiny_model_path: Path, replay: Path
) -> None:
    write_dataset(tmp_path, DOCUMENTS)

    def drawn(seed: int) -> list[list[int]]:
        given = config(replay_path=str(replay), replay_share=0.4)
        made = given.model_copy(update={"seed": seed})
        path = prepare(tmp_path, tiny_model_path, made).files["train"]
        return [list(e.input_ids) for e in ExampleFile(path) if e.task == "general"]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


@pytest.mark.parametrize("texts", [[], ["one document only"]])
def test_a_dataset_without_text_says_which_option_makes_it(
    tmp_path: Path, tiny_model_path: Path, texts: list[str]
) -> None:
    write_dataset(tmp_path, texts)
    with pytest.raises(InputError, match=f"text of {len(texts)} training documents") as caught:
        prepare(tmp_path, tiny_model_path, config())
    assert "tasks.pretraining" in str(caught.value)


def test_general_text_is_read_from_every_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("from a file\nof two lines")
    (tmp_path / "b.jsonl").write_text('{"text": "first"}\n\n{"text": "second", "id": 2}\n')
    pq.write_table(pa.table({"text": ["third", "", None]}), tmp_path / "c.parquet")
    (tmp_path / "d.pdf").write_text("not looked at")
    texts = [replay.text for replay in read_replay(tmp_path)]
    assert texts == ["from a file\nof two lines", "first", "second", "third"]
    before = replay_identity(tmp_path)
    (tmp_path / "a.txt").write_text("something else")
    assert replay_identity(tmp_path) != before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "x"}\n{"txt": 1}\n', "a.jsonl:2 is no JSON object with a 'text'"),
        ("a.jsonl", '{"text": 1}\n', "a.jsonl:1: 'text' is int, not a string"),
        ("a.md", "text", "leads to no .txt, .jsonl, .parquet file"),
    ],
)
def test_general_text_that_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message.replace(".", r"\.")):
        list(read_replay(tmp_path))


def test_perplexity_falls_on_the_domain_and_is_that_of_the_whole_logits(
    tmp_path: Path, tiny_model_path: Path, replay: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path, DOCUMENTS)
    made = config(replay_path=str(replay), max_steps=6)
    prepared = prepare(tmp_path, tiny_model_path, made)
    plan = TrainingPlan(
        config=made,
        batch=made.batch_arithmetic,
        base_model_path=tiny_model_path,
        files=prepared.files,
        run_folder=tmp_path,
        device="cpu",
        precision="fp32",
        learning_rate=learning_rate_of(made, tiny_model_path),
        num_epochs=num_epochs_of(made, len(DOCUMENTS)),
    )
    trainer = make_trainer(plan)
    events = train_here(plan, monkeypatch, trainer)
    before, after = (event for event in events if event["event"] == "validation")
    assert (before["step"], after["step"]) == (0, 6)
    assert after["perplexity_domain"] < before["perplexity_domain"]
    assert set(before) >= {"loss", "loss_domain", "loss_general", "perplexity_general"}
    assert math.log(after["perplexity_domain"]) == pytest.approx(_whole_loss(trainer.model, plan))
    assert trainer.standing().best_value == after["loss_domain"]
    steps = [event for event in events if event["event"] == "step"]
    assert {"domain", "general"} == {task for step in steps for task in step["task_losses"]}


def _whole_loss(model: Any, plan: TrainingPlan) -> float:
    """Mean negative log-likelihood of the held-out domain text, block by block, by the model."""
    import torch

    total = count = 0.0
    for example in ExampleFile(plan.files["validation"]):
        if example.task == "domain":
            ids = torch.tensor([[int(token) for token in example.input_ids]])
            with torch.no_grad():
                loss = model(input_ids=ids, labels=ids).loss
            total += float(loss) * example.num_loss_tokens
            count += example.num_loss_tokens
    return total / count
