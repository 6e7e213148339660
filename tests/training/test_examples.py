"""What is learned is the target, all of it and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.errors import InputError, TrainingError
from pipeline_lib.raft.rendering import SYSTEM_PROMPTS, render_row_prompt, render_target
from pipeline_lib.raft.rows import RaftRow
from pipeline_lib.training.examples import (
    Example,
    ExampleFile,
    encode_row,
    encode_rows,
    write_examples,
)
from pipeline_lib.training.prefixes import common_prefix_length

from .conftest import make_row


@pytest.fixture(params=["tiny_model_path", "smollm2_path"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(request.getfixturevalue(request.param))


def test_the_learned_tokens_are_the_target_and_the_end_of_the_turn(tokenizer: Any) -> None:
    row = make_row(0)
    example = encode_row(row, tokenizer)
    learned = example.input_ids[example.num_prompt_tokens :]
    assert tokenizer.decode(learned[:-1]) == render_target(row)
    assert learned[-1] == tokenizer.eos_token_id
    assert example.num_loss_tokens == len(learned)


def test_the_prompt_ends_where_generation_begins(tokenizer: Any) -> None:
    """So that what is trained is what is served."""
    row = make_row(0)
    example = encode_row(row, tokenizer)
    served = tokenizer.apply_chat_template(
        render_row_prompt(row), add_generation_prompt=True, return_dict=False
    )
    assert list(example.input_ids[: example.num_prompt_tokens]) == list(served)


def test_the_question_and_the_documents_are_in_the_prompt(tokenizer: Any) -> None:
    """A peer trained for two months on prompts without their documents."""
    row = make_row(3)
    example = encode_row(row, tokenizer)
    prompt = tokenizer.decode(example.input_ids[: example.num_prompt_tokens])
    assert row.question in prompt
    assert all(passage.text in prompt for passage in row.context)


def test_each_task_is_learned_under_its_own_prompt(tokenizer: Any) -> None:
    base = make_row(0)
    relevance = RaftRow.model_validate(
        dict(base) | {"task": "relevance", "base_row_id": base.row_id, "reasoning": ()}
    )
    example = encode_row(relevance, tokenizer)
    prompt, learned = (
        tokenizer.decode(ids)
        for ids in (
            example.input_ids[: example.num_prompt_tokens],
            example.input_ids[example.num_prompt_tokens : -1],
        )
    )
    assert learned == "<answer>2</answer>"
    assert SYSTEM_PROMPTS["relevance"] in prompt
    assert SYSTEM_PROMPTS["answer"] not in prompt


def test_rows_tokenized_together_are_those_tokenized_alone(tokenizer: Any) -> None:
    rows = [make_row(0), make_row(1, padding="long " * 50), make_row(2)]
    assert encode_rows(rows, tokenizer, [1.0, 2.0, 1.0]) == [
        encode_row(row, tokenizer, weight)
        for row, weight in zip(rows, (1.0, 2.0, 1.0), strict=True)
    ]


def test_rows_with_one_context_and_one_instruction_begin_alike(tokenizer: Any) -> None:
    """Only the question differs, so all tokens up to it are shared."""
    base = make_row(0).model_copy(update={"context_group": "context-1"})
    other = base.model_copy(update={"row_id": "row-0b", "question": "What does it do there?"})
    relevance = base.model_copy(update={"task": "relevance", "reasoning": ()})
    first, second, third = encode_rows([base, other, relevance], tokenizer)
    assert first.prompt_group == second.prompt_group != ""
    assert third.prompt_group not in ("", first.prompt_group), "another instruction comes first"
    shared = tokenizer.decode(first.input_ids[: common_prefix_length([first, second])])
    assert shared.rstrip().endswith("Question: What")
    assert encode_row(make_row(1), tokenizer).prompt_group == ""


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    """More than one of the batches it is written in."""
    examples = [
        Example(
            f"row-{i}", tuple(range(i, i + 5 + i % 3)), 2, f"task-{i % 2}", 0.5 * i, f"g{i % 7}"
        )
        for i in range(600)
    ]
    write_examples(tmp_path / "examples.arrow", examples)
    file = ExampleFile(tmp_path / "examples.arrow")
    assert len(file) == 600
    assert file.lengths == [len(example.input_ids) for example in examples]
    for index in (0, 255, 256, 599):
        read = file[index]
        assert replace(read, input_ids=tuple(read.input_ids)) == examples[index]
    assert [example.row_id for example in file[598:]] == ["row-598", "row-599"]


def test_a_template_that_rewrites_the_answer_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "message['content']", "(message['content'] | upper)"
    )
    with pytest.raises(TrainingError, match="instead of"):
        encode_row(make_row(0), tokenizer)


def test_a_tokenizer_without_a_chat_template_is_refused(tiny_model_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path)
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        encode_row(make_row(0), tokenizer)
