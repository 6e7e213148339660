"""Pairs that are too long: made shorter, left out, or refused; always counted, never cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.config import BatchConfig
from pipeline_lib.config.batches import cut_batch
from pipeline_lib.config.contexts import PreferenceConfig
from pipeline_lib.errors import InputError
from pipeline_lib.raft.derived.preferences import PreferencePair, make_pair
from pipeline_lib.training.batches import PlannedRows, plan_epoch
from pipeline_lib.training.objectives.pair_fitting import (
    PairFitter,
    cited_passages,
    without_passages,
)
from pipeline_lib.training.objectives.preferences import PairFile
from tests.raft.made_rows import QUOTED, make_row, passage

from .made_pairs import pair, prepared

ANSWER = f'The passage tells. <quote doc="{{}}">{QUOTED}</quote>\n<answer>By hearing</answer>'


def misattributed(*names: str, cited: int) -> PreferencePair:
    """A pair with these passages whose rejected answer cites a wrong one."""
    fields = pair(1) | {
        "context": make_row(*names).context,
        "chosen": ANSWER.format(names.index("owl") + 1),
        "rejected": ANSWER.format(cited),
    }
    return PreferencePair.model_validate(fields)


CROWDED = misattributed("heron", "kestrel", "bat", "owl", "stork", cited=2)


def fitter_of(tokenizer: Any, max_seq_len: int, too_long: str) -> PairFitter:
    batch = {"max_seq_len": max_seq_len, "too_long": too_long}
    return PairFitter(tokenizer, BatchConfig.model_validate(batch))


def length_of(made: PreferencePair, tokenizer: Any) -> int:
    """The prompt once, and both answers."""
    [(chosen, rejected)] = fitter_of(tokenizer, 100_000, "error").encoded([made])
    return len(chosen.input_ids) + rejected.num_loss_tokens


def shown(made: PreferencePair) -> list[str]:
    return [passage.chunk_id for passage in made.context]


@pytest.mark.parametrize("policy", ["drop", "fewer_distractors", "error"])
def test_a_pair_that_fits_to_the_token_is_left_alone(tokenizer: Any, policy: str) -> None:
    fitter = fitter_of(tokenizer, length_of(CROWDED, tokenizer), policy)
    [(chosen, rejected)] = fitter.encoded([CROWDED])
    assert tokenizer.decode(chosen.input_ids).endswith(f"{CROWDED.chosen}<|im_end|>")
    assert tokenizer.decode(rejected.input_ids).endswith(f"{CROWDED.rejected}<|im_end|>")
    assert (fitter.num_too_long, fitter.num_with_fewer_distractors) == (0, 0)


def test_a_token_more_is_dropped_and_counted_or_refused_by_name(tokenizer: Any) -> None:
    length = length_of(CROWDED, tokenizer)
    fitter = fitter_of(tokenizer, length - 1, "drop")
    assert list(fitter.encoded([CROWDED, CROWDED])) == []
    assert (fitter.num_too_long, fitter.num_with_fewer_distractors) == (2, 0)
    expected = rf"Pair pair-1 has {length} tokens .* more than the {length - 1}"
    with pytest.raises(InputError, match=expected):
        list(fitter_of(tokenizer, length - 1, "error").encoded([CROWDED]))


def test_as_few_uncited_distractors_as_need_be_are_left_out_the_least_relevant_first(
    tokenizer: Any,
) -> None:
    fewer = [
        misattributed("kestrel", "bat", "owl", "stork", cited=1),  # the heron is a random one
        misattributed("kestrel", "bat", "owl", cited=1),  # the stork, too
        misattributed("kestrel", "owl", cited=1),  # the kestrel is less relevant, but cited
    ]
    before = length_of(CROWDED, tokenizer)
    for made in fewer:
        length = length_of(made, tokenizer)
        for limit in (length, before - 1):
            fitter = fitter_of(tokenizer, limit, "fewer_distractors")
            [expected] = fitter_of(tokenizer, length, "error").encoded([made])
            assert list(fitter.encoded([CROWDED])) == [expected]
            assert (fitter.num_too_long, fitter.num_with_fewer_distractors) == (0, 1)
        before = length
    fitter = fitter_of(tokenizer, before - 1, "fewer_distractors")
    assert list(fitter.encoded([CROWDED])) == []
    assert (fitter.num_too_long, fitter.num_with_fewer_distractors) == (1, 0)


@pytest.mark.parametrize("fault", ["distractor", "stitched", "misattributed", "unfounded"])
def test_a_pair_keeps_its_fault_whatever_uncited_distractors_it_loses(fault: str) -> None:
    row = make_row("heron", "kestrel", "bat", "owl", "stork")
    config = PreferenceConfig.model_validate({"share": 1.0, "rejected": {fault: 1.0}})
    made = make_pair(row, config, seed=1, one_more=lambda *_: passage("fake"))
    assert made is not None
    assert made.fault == fault
    uncited = [
        each
        for each in made.context
        if each.role == "distractor" and each not in cited_passages(made)
    ]
    assert uncited
    fewer = without_passages(made, uncited)  # which checks the faults of both answers
    assert shown(fewer) == [p.chunk_id for p in made.context if p not in uncited]
    assert [p.chunk_id for p in cited_passages(fewer)] == [p.chunk_id for p in cited_passages(made)]


def test_a_number_that_names_no_passage_still_names_none() -> None:
    refused = pair(1) | {
        "context": tuple(passage(name) for name in ("heron", "kestrel", "bat")),
        "chosen": "<answer>The documents do not contain the answer.</answer>",
        "rejected": ANSWER.format(4),
        "fault": "unfounded",
    }
    made = PreferencePair.model_validate(refused)
    assert cited_passages(made) == []
    fewer = without_passages(made, made.context[:1])
    assert fewer.rejected == made.rejected
    assert cited_passages(fewer) == []


def test_what_is_left_out_is_told_of_both_splits(tmp_path: Path, tiny_model_path: Path) -> None:
    fits, too_long = pair(1), pair(2, words=300)
    pairs = [fits, too_long, pair(3, "validation"), pair(4, "validation", words=300)]
    found = prepared(tmp_path, tiny_model_path, pairs)
    assert found.counts == {"num_train_rows": 1, "num_validation_rows": 1}
    assert found.dropped == {
        "train_longer_than_max_seq_len": 1,
        "validation_longer_than_max_seq_len": 1,
    }
    assert found.details == {"pairs_by_fault": {"misattributed": 1}}
    with pytest.raises(InputError, match="None of the 2 train pairs"):
        prepared(tmp_path, tiny_model_path, pairs, max_seq_len=64)


def test_pairs_with_fewer_distractors_are_told(
    tmp_path: Path, tiny_model_path: Path, tokenizer: Any
) -> None:
    limit = length_of(CROWDED, tokenizer) - 1
    crowded = CROWDED.model_dump()
    pairs = [crowded, pair(2), pair(3, "validation")]
    found = prepared(
        tmp_path, tiny_model_path, pairs, max_seq_len=limit, too_long="fewer_distractors"
    )
    assert found.counts == {
        "num_train_rows": 2,
        "train_rows_with_fewer_distractors": 1,
        "num_validation_rows": 1,
    }
    assert not found.dropped


def test_every_pair_that_is_kept_fits_into_a_micro_batch_in_tokens(
    tmp_path: Path, tiny_model_path: Path, tokenizer: Any
) -> None:
    """Each answer of the longer pair would fit with the prompt, but not both."""
    limit = length_of(PreferencePair.model_validate(pair(1)), tokenizer)
    batch = {"global_batch_size": None, "global_batch_tokens": 2 * limit, "max_seq_len": limit}
    pairs = [pair(1), pair(2, words=1), pair(3), pair(4, "validation")]
    found = prepared(tmp_path, tiny_model_path, pairs, **batch)
    assert found.dropped == {"train_longer_than_max_seq_len": 1}
    lengths = PairFile(found.files["train"]).lengths
    assert lengths == [limit, limit]
    arithmetic = cut_batch(BatchConfig.model_validate(batch), 1)
    [step] = plan_epoch(PlannedRows(lengths=lengths), arithmetic, seed=1, epoch=0)
    assert sorted(step[0]) == [(0,), (1,)]
