"""The index is made with the tuned model only when it is better, and stays so when asked again."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import IndexConfig, PromoteRetrieverConfig, TuneRetrieverConfig
from pipeline_lib.errors import ConfigError, InputError
from pipeline_lib.retriever.naming import retriever_name
from pipeline_lib.retriever.promotion import promote_retriever
from pipeline_lib.retriever.service import (
    origin_of,
    retriever_in_service,
    serving_index,
    with_retriever_in_service,
)
from pipeline_lib.stage import StageResult

DENSE = PromoteRetrieverConfig(search="dense")


@pytest.fixture(autouse=True)
def _no_champion(bench: Any) -> Any:
    """The store is shared; aliases must not be."""
    yield
    bench.ws.artifacts.objects.delete(
        info.key
        for info in bench.ws.artifacts.objects.scan("_aliases/model/demo-retriever/champion")
    )


def test_a_clearly_better_model_becomes_champion_once(bench: Any, tuned: StageResult) -> None:
    result = promote_retriever(bench.ws, "demo", DENSE, tuned.ref)
    assert result.is_promoted
    assert bench.ws.artifacts.alias("model", "demo-retriever", "champion") == tuned.ref
    assert (result.metric, result.against) == ("ndcg@10 (dense search)", "base")
    [reason] = result.reasons
    assert reason.startswith("ndcg@10 of dense search, improvement on the untuned model: +0.")
    assert "24 questions): the lower bound exceeds 0" in reason
    again = promote_retriever(bench.ws, "demo", DENSE, tuned.ref)
    assert not again.is_promoted
    assert again.reasons == (f"{tuned.ref} is already champion",)


def test_a_model_that_is_not_better_is_refused_with_every_reason(
    bench: Any, config: TuneRetrieverConfig
) -> None:
    worse = bench.tune(
        config.model_copy(update={"learning_rate": 1e-9, "num_epochs": 1, "seed": 5})
    )
    result = promote_retriever(bench.ws, "demo", DENSE, worse.ref)
    assert not result.is_promoted
    assert "the lower bound does not exceed 0" in result.reasons[0]
    assert bench.ws.artifacts.alias("model", "demo-retriever", "champion") is None


def test_the_required_improvement_is_a_bar_for_the_lower_bound(
    bench: Any, tuned: StageResult
) -> None:
    high = DENSE.model_copy(update={"min_improvement": 0.99})
    result = promote_retriever(bench.ws, "demo", high, tuned.ref)
    assert not result.is_promoted
    assert "does not exceed 0.99" in result.reasons[0]


def test_a_champion_is_measured_on_the_challengers_questions(
    bench: Any, tuned: StageResult, config: TuneRetrieverConfig
) -> None:
    weak = bench.tune(config.model_copy(update={"num_epochs": 1, "seed": 7}))
    bench.ws.artifacts.set_alias("champion", weak.ref)
    result = promote_retriever(bench.ws, "demo", DENSE, tuned.ref)
    assert result.is_promoted
    assert result.against == "champion"
    assert "improvement on the champion" in result.reasons[1]
    refused = promote_retriever(bench.ws, "demo", DENSE, weak.ref)
    assert not refused.is_promoted
    assert bench.ws.artifacts.alias("model", "demo-retriever", "champion") == tuned.ref


def test_an_index_is_made_with_the_champion_by_its_fingerprint(
    bench: Any, tuned: StageResult
) -> None:
    config = IndexConfig(bm25_language="german")
    assert with_retriever_in_service(bench.ws, "demo", config, bench.index) is config
    assert serving_index(bench.ws, "demo", bench.index) is None
    bench.ws.artifacts.set_alias("champion", tuned.ref)
    served = with_retriever_in_service(bench.ws, "demo", config, bench.index)
    assert served == config.model_copy(update={"embedding_model": f"artifact:{tuned.ref}"})
    plan = serving_index(bench.ws, "demo", bench.index)
    assert plan is not None
    assert plan.config.embedding_model == f"artifact:{tuned.ref}"
    assert plan.corpus == bench.corpus == origin_of(bench.ws, bench.dataset).corpus


def test_a_champion_of_another_base_model_is_not_served(
    bench: Any, tuned: StageResult, index_of_another_model: ArtifactRef
) -> None:
    """Its tokenizer need not be the one that the chunks were measured with."""
    bench.ws.artifacts.set_alias("champion", tuned.ref)
    assert retriever_in_service(bench.ws, "demo", bench.index) == tuned.ref
    assert retriever_in_service(bench.ws, "demo", index_of_another_model) is None


def test_what_was_not_measured_cannot_decide(bench: Any, tuned: StageResult) -> None:
    config = PromoteRetrieverConfig(metric="recall@3")
    with pytest.raises(ConfigError, match=r"'recall@3' was not measured") as caught:
        promote_retriever(bench.ws, "demo", config, tuned.ref)
    assert "recall@1, recall@5, recall@10, mrr@10, ndcg@10" in str(caught.value)


def test_another_pipelines_model_is_refused(bench: Any, tuned: StageResult) -> None:
    with pytest.raises(InputError, match="is not a tuned retriever of 'other'"):
        promote_retriever(bench.ws, "other", DENSE, tuned.ref)


def test_a_name_that_leaves_no_room_for_the_suffix_is_refused() -> None:
    assert retriever_name("docs") == "docs-retriever"
    with pytest.raises(ConfigError, match="cannot name an artifact"):
        retriever_name("d" * 60)
