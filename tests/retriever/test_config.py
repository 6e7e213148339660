"""What the configuration accepts, and what it keeps out of fingerprints."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pipeline_lib.config import (
    IndexConfig,
    MiningConfig,
    PipelineConfig,
    PromoteRetrieverConfig,
    TuneRetrieverConfig,
)


def test_an_index_may_have_a_tuned_model_where_the_chunks_were_measured_with_its_base() -> None:
    tuned = IndexConfig(embedding_model="artifact:model/docs-retriever@champion")
    assert PipelineConfig(index=tuned).index == tuned
    with pytest.raises(ValidationError, match="give both the same"):
        PipelineConfig(index=IndexConfig(embedding_model="another/model"))


def test_a_name_must_leave_room_for_the_retrievers() -> None:
    assert PipelineConfig(name="d" * 63).tune_retriever is None
    PipelineConfig(name="d" * 53, tune_retriever=TuneRetrieverConfig())
    with pytest.raises(ValidationError, match="at most 63 characters"):
        PipelineConfig(name="d" * 54, tune_retriever=TuneRetrieverConfig())


def test_ranks_must_be_a_window() -> None:
    assert MiningConfig(first_rank=5, last_rank=5).last_rank == 5
    with pytest.raises(ValidationError, match=r"last_rank \(4\) must not be below first_rank \(5"):
        MiningConfig(first_rank=5, last_rank=4)


@pytest.mark.parametrize("metric", ["ndcg", "ndcg@0", "precision@5", "token_f1"])
def test_a_metric_that_is_never_measured_is_refused(metric: str) -> None:
    with pytest.raises(ValidationError, match="metric"):
        PromoteRetrieverConfig(metric=metric)


def test_promotion_and_speed_are_not_part_of_the_fingerprint() -> None:
    output = TuneRetrieverConfig().output_config()
    assert "promotion" not in output
    assert "batch_tokens" not in output
    assert output["mining"]["num_negatives"] == 1
