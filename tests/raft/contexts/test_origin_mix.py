from __future__ import annotations

from collections import Counter

import pytest
from pydantic import ValidationError

from pipeline_lib.config.contexts import DISTRACTOR_ORIGINS as CONFIGURABLE
from pipeline_lib.config.contexts import ContextConfig
from pipeline_lib.raft.contexts.mix import DISTRACTOR_ORIGINS, origin_counts, origin_shares


def test_every_configurable_origin_is_known() -> None:
    assert set(CONFIGURABLE) == set(DISTRACTOR_ORIGINS)
    with pytest.raises(ValidationError, match="no distractors of kind advresarial"):
        ContextConfig(distractors={"advresarial": 1})


def test_the_default_is_half_retrieved_half_random() -> None:
    shares = origin_shares(ContextConfig().distractors, "train", has_oracle=True)
    for draw in (0.0, 0.3, 0.999999):
        assert origin_counts(shares, 2, draw) == {"retrieved": 1, "random": 1}
        assert sum(origin_counts(shares, 3, draw).values()) == 3


def test_a_small_share_is_met_over_many_rows() -> None:
    shares = origin_shares(
        {"retrieved": 7, "adversarial": 1, "random": 2}, "train", has_oracle=True
    )
    total: Counter[str] = Counter()
    for number in range(1000):
        counts = origin_counts(shares, 2, number / 1000)
        assert sum(counts.values()) == 2
        assert counts["adversarial"] in (0, 1)
        assert counts["retrieved"] in (1, 2)
        total.update(counts)
    assert total == pytest.approx({"retrieved": 1400, "random": 400, "adversarial": 200}, abs=2)


def test_peer_bug_asking_for_n_gives_n() -> None:
    """llama-index pack: min(n, chunks) - 1, so 3 distractors become 2."""
    shares = origin_shares(dict.fromkeys(CONFIGURABLE, 1 / 3), "train", has_oracle=True)
    for count in range(20):
        for draw in (0.0, 0.5, 0.999999):
            assert sum(origin_counts(shares, count, draw).values()) == count


@pytest.mark.parametrize("split", ["validation", "test"])
def test_held_out_questions_see_only_what_a_search_could_bring(split) -> None:
    shares = {"retrieved": 1, "random": 1, "adversarial": 6, "contradicting": 1, "same_document": 1}
    assert origin_shares(shares, split, has_oracle=True) == {"retrieved": 0.5, "random": 0.5}
    assert origin_shares({"adversarial": 1}, split, has_oracle=True) == {"retrieved": 1.0}


def test_an_empty_mix_is_what_retrieval_brings() -> None:
    assert origin_shares({}, "train", has_oracle=True) == {"retrieved": 1.0}


def test_made_up_passages_stand_beside_an_oracle_only() -> None:
    shares = {"adversarial": 1, "contradicting": 1, "random": 1, "same_document": 1}
    without = origin_shares(shares, "train", has_oracle=False)
    assert without == {"random": 0.5, "same_document": 0.5}
