"""Rows that are too long: left out, made shorter, or refused; always counted, never cut."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline_lib.config import BatchConfig
from pipeline_lib.errors import ConfigError, InputError
from pipeline_lib.raft.rows import Passage, RaftRow
from pipeline_lib.training.examples import encode_row
from pipeline_lib.training.fitting import RowFitter, removal_order, without_passages

from .conftest import make_row


def distractor(name: str, origin: str, rank: int | None = None, text: str = "x" * 200) -> Passage:
    return Passage.model_validate(
        {
            "chunk_id": name,
            "document_id": f"document of {name}",
            "title": "",
            "text": text,
            "role": "distractor",
            "origin": origin,
            "rank": rank,
        }
    )


def row_with(*distractors: Passage, **changed: Any) -> RaftRow:
    """`make_row(0)`, its oracle behind all the distractors."""
    base = make_row(0)
    context = (*distractors, base.context[1])
    return RaftRow.model_validate(dict(base) | {"context": context} | changed)


CROWDED = row_with(
    distractor("near", "retrieved", rank=2),
    distractor("far", "retrieved", rank=9),
    distractor("chance", "random"),
    distractor("made up", "adversarial"),
    distractor("neighbour", "same_document"),
)


def test_the_least_relevant_distractors_go_first_and_oracles_never() -> None:
    names = [passage.chunk_id for passage in removal_order(CROWDED)]
    assert names == ["chance", "made up", "neighbour", "far", "near"]


def test_a_row_without_oracle_keeps_its_most_relevant_passage() -> None:
    refusal = RaftRow.model_validate(
        dict(CROWDED)
        | {
            "context": CROWDED.context[:2],
            "oracle_present": False,
            "target": "refuse",
            "reasoning": (),
            "task": "refusal",
            "base_row_id": "row-0",
        }
    )
    assert [passage.chunk_id for passage in removal_order(refusal)] == ["far"]


def test_as_few_distractors_as_need_be_are_left_out(tokenizer: Any) -> None:
    for num_left_out in range(1, 6):
        expected = encode_row(
            without_passages(CROWDED, removal_order(CROWDED)[:num_left_out]), tokenizer
        )
        fitter = fitter_of(tokenizer, len(expected.input_ids), "fewer_distractors")
        assert list(fitter.examples([CROWDED])) == [expected]
        assert fitter.num_with_fewer_distractors == 1
        assert not fitter.dropped


def test_quotes_name_their_document_by_its_new_number(tokenizer: Any) -> None:
    whole = encode_row(CROWDED, tokenizer)
    assert '<quote doc="6">' in answer_of(whole, tokenizer)
    fitter = fitter_of(tokenizer, len(whole.input_ids) - 1, "fewer_distractors")
    (shorter,) = fitter.examples([CROWDED])
    assert '<quote doc="5">' in answer_of(shorter, tokenizer)


def test_a_row_whose_oracle_alone_is_too_long_is_dropped_and_counted(tokenizer: Any) -> None:
    for policy in ("drop", "fewer_distractors"):
        fitter = fitter_of(tokenizer, 200, policy)
        assert list(fitter.examples([CROWDED, CROWDED])) == []
        assert fitter.dropped == {"longer_than_max_seq_len": 2}
        assert fitter.num_with_fewer_distractors == 0


def test_rows_that_fit_are_left_alone(tokenizer: Any) -> None:
    example = encode_row(CROWDED, tokenizer)
    for policy in ("drop", "fewer_distractors", "error"):
        fitter = fitter_of(tokenizer, len(example.input_ids), policy)
        assert list(fitter.examples([CROWDED])) == [example]
        assert not fitter.dropped


def test_the_policy_error_names_row_tokens_and_limit(tokenizer: Any) -> None:
    num_tokens = len(encode_row(CROWDED, tokenizer).input_ids)
    with pytest.raises(InputError, match=f"Row row-0 has {num_tokens} tokens, more than the 200"):
        list(fitter_of(tokenizer, 200, "error").examples([CROWDED]))


def test_rows_of_one_context_that_lose_the_same_passages_still_begin_alike(tokenizer: Any) -> None:
    first = CROWDED.model_copy(update={"context_group": "g"})
    second = first.model_copy(update={"row_id": "other"})
    third = first.model_copy(update={"row_id": "third", "final_answer": "x" * 400})
    limit = len(encode_row(first, tokenizer).input_ids) - 1
    examples = list(
        fitter_of(tokenizer, limit, "fewer_distractors").examples([first, second, third])
    )
    groups = [example.prompt_group for example in examples]
    assert groups[0] == groups[1] != groups[2]


def test_tasks_of_weight_0_are_left_out_and_counted(tokenizer: Any) -> None:
    relevance = RaftRow.model_validate(
        dict(make_row(0)) | {"task": "relevance", "base_row_id": "row-0", "reasoning": ()}
    )
    fitter = fitter_of(tokenizer, 2000, weights={"relevance": 0, "answer": 0.5})
    examples = list(fitter.examples([make_row(0), relevance]))
    assert [(example.task, example.weight) for example in examples] == [("answer", 0.5)]
    assert fitter.dropped == {"task_weight_0": 1}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"answers": 1.0}, "'answers', which is no task"),
        ({"answer": -1.0}, "of answer is not a number from 0 up"),
        ({"answer": float("nan")}, "of answer is not a number from 0 up"),
        (
            dict.fromkeys(
                ("answer", "relevance", "ranking", "quotes", "refusal", "closed_book"), 0.0
            ),
            "leaves every task out",
        ),
    ],
)
def test_weights_that_mean_nothing_are_refused(
    tokenizer: Any, weights: dict[str, float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        fitter_of(tokenizer, 2000, weights=weights)


def fitter_of(
    tokenizer: Any, limit: int, policy: str = "drop", weights: dict[str, float] | None = None
) -> RowFitter:
    batch = BatchConfig.model_validate({"max_seq_len": limit, "too_long": policy})
    return RowFitter(tokenizer, batch, weights or {})


def answer_of(example: Any, tokenizer: Any) -> str:
    answer: str = tokenizer.decode(example.input_ids[example.num_prompt_tokens :])
    return answer
