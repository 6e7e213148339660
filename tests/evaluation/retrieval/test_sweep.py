"""Settings are chosen on one half of the queries and confirmed on the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline_lib.config import RetrievalConfig, RetrievalEvaluationConfig, SweepConfig
from pipeline_lib.errors import InputError
from pipeline_lib.evaluation.retrieval.records import SweepResult
from pipeline_lib.evaluation.retrieval.scoring import ScoredSystem
from pipeline_lib.evaluation.retrieval.sweep import (
    IN_USE,
    Setting,
    TriedSetting,
    conclude,
    sample_queries,
    settings_to_try,
    split_queries,
)
from pipeline_lib.evaluation.statistics import Resampling

DEV = [f"dev{n}" for n in range(30)]
HELD_OUT = [f"held{n}" for n in range(30)]


def _tried(name: str, dev: Sequence[float], held_out: Sequence[float]) -> TriedSetting:
    values = np.array([*dev, *held_out])[:, None]
    system = ScoredSystem(name, ("ndcg@10",), (*DEV, *HELD_OUT), values)
    changes = {} if name == IN_USE else {"fusion": "rrf"}
    return TriedSetting(Setting(name=name, retrieval=RetrievalConfig(), changes=changes), system)


def _conclude(*tried: TriedSetting) -> SweepResult:
    return conclude(
        tried,
        metric="ndcg@10",
        level="documents",
        dev=DEV,
        held_out=HELD_OUT,
        resampling=Resampling(num_samples=999),
    )


HALF = [0.0, 1.0] * 15
MORE = [0.5, 1.0] * 15


def test_a_setting_that_is_clearly_better_on_both_halves_is_recommended() -> None:
    result = _conclude(_tried(IN_USE, HALF, HALF), _tried("better", MORE, MORE))
    assert result.decision == "change"
    assert result.recommended == {"fusion": "rrf"}
    assert result.recommendation.startswith("Change to better: ndcg@10 +0.250")
    assert result.held_out is not None
    assert result.held_out.difference == 0.25
    assert set(result.held_out_estimates) == {IN_USE, "better"}
    assert [setting.name for setting in result.settings] == ["better", IN_USE]


def test_luck_on_the_development_queries_alone_changes_nothing() -> None:
    result = _conclude(_tried(IN_USE, HALF, HALF), _tried("lucky", MORE, HALF))
    assert (result.decision, result.chosen, result.recommended) == ("not_confirmed", "lucky", {})
    assert "does not confirm it" in result.recommendation


def test_a_small_difference_keeps_the_settings_in_use() -> None:
    slightly = [0.0, 1.0] * 14 + [0.2, 1.0]
    result = _conclude(_tried(IN_USE, HALF, HALF), _tried("slightly", slightly, HALF))
    assert result.decision == "no_clear_difference"
    assert result.recommendation.startswith("No clear difference: keep the settings in use.")


def test_trying_more_settings_asks_for_more_evidence() -> None:
    """Seven of 30 queries better, none worse: p is 2 / 2^7 for one try, not enough for five."""
    somewhat = [0.1 if n < 7 else 0.0 for n in range(30)]
    nothing = [0.0] * 30
    in_use, tried = _tried(IN_USE, nothing, nothing), _tried("somewhat", somewhat, somewhat)
    assert _conclude(in_use, tried).decision == "change"
    others = [_tried(f"worse {n}", nothing, nothing) for n in range(4)]
    assert _conclude(in_use, tried, *others).decision == "no_clear_difference"


def test_of_equals_the_setting_in_use_stays_and_nothing_is_asked_of_the_held_out() -> None:
    result = _conclude(_tried(IN_USE, HALF, HALF), _tried("same", HALF, MORE))
    assert (result.decision, result.chosen, result.held_out) == ("already_best", IN_USE, None)


def test_the_split_is_fixed_by_its_seed_and_leaves_no_query_out() -> None:
    queries = [f"q{n}" for n in range(100)]
    dev, held_out = split_queries(queries, 0.3, seed=1)
    assert (len(dev), len(held_out)) == (30, 70)
    assert sorted([*dev, *held_out]) == sorted(queries)
    assert split_queries(reversed(queries), 0.3, seed=1) == (dev, held_out)
    assert split_queries(queries, 0.3, seed=2)[0] != dev
    with pytest.raises(InputError, match="3 queries are too few"):
        split_queries(queries[:3], 0.5, seed=1)


def test_a_sample_is_seeded_keeps_order_and_is_all_when_there_are_few() -> None:
    queries = [f"q{n}" for n in range(50)]
    sample = sample_queries(queries, 10, seed=3)
    assert len(sample) == 10
    assert sample == [query for query in queries if query in set(sample)]
    assert sample != sample_queries(queries, 10, seed=4)
    assert sample_queries(queries, 60, seed=3) == queries


def test_every_setting_is_tried_once_and_the_one_in_use_first() -> None:
    sweep = SweepConfig(dense_weights=(1.0, 2.0), prefetch_limits=(20, 50), mmr_lambdas=(1.0, 0.7))
    names = [setting.name for setting in settings_to_try(RetrievalConfig(), sweep)]
    # 2 weights x 2 limits for DBSF, one of them in use; the same x 2 constants for RRF.
    assert names[0] == IN_USE
    assert len(names) == len(set(names)) == 1 + 3 + 8 + 2 + 1
    assert "dbsf, dense : sparse 2 : 1, 20 candidates" in names
    assert "rrf, k 60, 50 candidates" in names
    assert "dbsf, 50 candidates, MMR 0.7" in names
    # DBSF knows only the ratio of the weights: 2 : 2 is in use already when 1 : 1 is asked for.
    doubled = RetrievalConfig(dense_weight=2, sparse_weight=2)
    only = SweepConfig(modes=("hybrid",), fusions=("dbsf",), dense_weights=(1.0,))
    assert [setting.name for setting in settings_to_try(doubled, only)] == [IN_USE]


def test_chunk_settings_combine_sizes_with_smaller_overlaps() -> None:
    sweep = SweepConfig(modes=(), chunk_sizes=(32, 128), chunk_overlaps=(0, 64))
    names = [setting.name for setting in settings_to_try(RetrievalConfig(), sweep)]
    assert names == [
        IN_USE, "chunks of 32 tokens", "chunks of 128 tokens", "chunks of 128 tokens, overlap 64",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"depth": 5}, r"depth \(5\) is below the largest cutoff \(10\)"),
        ({"depth": 60}, r"depth \(60\) is above retrieval.prefetch_limit \(50\)"),
        ({"queries": "q.jsonl"}, "queries and qrels go together"),
    ],
)
def test_contradictions_are_refused_before_any_work(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        RetrievalEvaluationConfig.model_validate(fields)
