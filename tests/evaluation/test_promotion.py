"""The alias moves for a clear improvement over the present champion, and for nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import FrozenConfig, PromoteConfig
from pipeline_lib.errors import AliasConflictError, ConfigError, InputError
from pipeline_lib.evaluation.promotion import promote
from pipeline_lib.evaluation.records import METRICS_FILE, Comparison, EvaluationSummary
from pipeline_lib.stage import Workspace, run_stage

Evaluate = Callable[..., ArtifactRef]


class _Tag(FrozenConfig):
    tag: str


def _publish(ws: Workspace, kind: str, tag: str, files: dict[str, str], inputs=None) -> ArtifactRef:
    def build(draft) -> None:
        for name, text in files.items():
            (draft.directory / name).write_text(text)

    return run_stage(
        ws,
        kind=kind,  # type: ignore[arg-type]
        name="demo",
        stage="test",
        stage_version=1,
        config=_Tag(tag=tag),
        inputs=inputs or {},
        build=build,
    ).ref


@pytest.fixture
def publish_model(workspace) -> Callable[[str], ArtifactRef]:
    return lambda tag: _publish(workspace, "model", tag, {"README.md": tag})


@pytest.fixture
def publish_evaluation(workspace) -> Evaluate:
    """An evaluation whose every comparison has the given interval."""

    def publish(model, low, high, *, champion=None, metric="token_f1") -> ArtifactRef:
        summary = EvaluationSummary(
            evaluation_version=1,
            split="test",
            num_questions=64,
            num_oracle_in_context=60,
            context_size=3,
            confidence=0.95,
            arms={},
            retrieval={},
            comparisons=tuple(
                Comparison(
                    metric=metric,
                    arm="candidate",
                    against=against,  # type: ignore[arg-type]
                    difference=(low + high) / 2,
                    low=low,
                    high=high,
                    p_value=0.01,
                    num=64,
                )
                for against in ("base", *(["champion"] if champion else []))
            ),
            answers={},
            signatures={},
        )
        inputs = {"model": model, **({"champion": champion} if champion else {})}
        tag = f"{model}{low}{high}{champion}{metric}"
        files = {METRICS_FILE: summary.model_dump_json()}
        return _publish(workspace, "evaluation", tag, files, inputs)

    return publish


def champion(ws: Workspace) -> ArtifactRef | None:
    return ws.artifacts.alias("model", "demo", "champion")


def test_the_first_model_that_clearly_beats_the_base_becomes_champion(
    workspace, publish_model, publish_evaluation
):
    model = publish_model("one")
    result = promote(workspace, "demo", PromoteConfig(), publish_evaluation(model, 0.1, 0.3))
    assert result.is_promoted
    assert champion(workspace) == model == result.model
    assert (result.against, result.difference, result.low, result.high) == ("base", 0.2, 0.1, 0.3)
    [reason] = result.reasons
    assert "token_f1, improvement on the base: +0.2000" in reason
    assert "+0.1000 to +0.3000, 64 questions" in reason


@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.3), (0.0, 0.3), (-0.3, -0.1)])
def test_an_interval_that_reaches_zero_promotes_nobody(
    workspace, publish_model, publish_evaluation, low, high
):
    evaluation = publish_evaluation(publish_model("one"), low, high)
    result = promote(workspace, "demo", PromoteConfig(), evaluation)
    assert not result.is_promoted
    assert champion(workspace) is None
    assert "does not exceed 0" in result.reasons[0]


def test_the_required_improvement_is_a_bar_for_the_lower_bound(
    workspace, publish_model, publish_evaluation
):
    evaluation = publish_evaluation(publish_model("one"), 0.1, 0.3)
    assert not promote(
        workspace, "demo", PromoteConfig(min_improvement=0.1), evaluation
    ).is_promoted
    assert promote(workspace, "demo", PromoteConfig(min_improvement=0.09), evaluation).is_promoted


def test_where_less_is_better_the_decrease_counts(workspace, publish_model, publish_evaluation):
    config = PromoteConfig(metric="answer_perplexity")
    worse = publish_evaluation(publish_model("one"), 1.0, 2.0, metric="answer_perplexity")
    assert not promote(workspace, "demo", config, worse).is_promoted
    better = publish_evaluation(publish_model("two"), -2.0, -1.0, metric="answer_perplexity")
    result = promote(workspace, "demo", config, better)
    assert result.is_promoted
    assert "base: +1.5000 (95% interval +1.0000 to +2.0000" in result.reasons[0]


def test_the_champion_itself_is_left_in_place_without_complaint(
    workspace, publish_model, publish_evaluation
):
    model = publish_model("one")
    evaluation = publish_evaluation(model, 0.1, 0.3)
    promote(workspace, "demo", PromoteConfig(), evaluation)
    again = promote(workspace, "demo", PromoteConfig(), evaluation)
    assert not again.is_promoted
    assert again.reasons == (f"{model} is already champion",)


def test_a_champion_that_was_no_arm_of_the_evaluation_is_not_dethroned(
    workspace, publish_model, publish_evaluation
):
    first, second = publish_model("one"), publish_model("two")
    workspace.artifacts.set_alias("champion", first)
    result = promote(workspace, "demo", PromoteConfig(), publish_evaluation(second, 0.1, 0.3))
    assert not result.is_promoted
    assert champion(workspace) == first
    assert "was not an arm" in result.reasons[0]
    assert str(first) in result.reasons[0]


def test_a_champion_gives_way_to_a_model_that_clearly_beats_it(
    workspace, publish_model, publish_evaluation
):
    first, second = publish_model("one"), publish_model("two")
    workspace.artifacts.set_alias("champion", first)
    evaluation = publish_evaluation(second, 0.1, 0.3, champion=first)
    result = promote(workspace, "demo", PromoteConfig(), evaluation)
    assert result.is_promoted
    assert result.against == "champion"
    assert champion(workspace) == second
    [newest, *_] = workspace.artifacts.aliases.history("model", "demo", "champion")
    assert str(evaluation) in newest.reason


def test_a_champion_that_moved_while_we_decided_is_a_conflict(
    workspace, publish_model, publish_evaluation, monkeypatch
):
    evaluation = publish_evaluation(publish_model("one"), 0.1, 0.3)
    other = publish_model("other")
    read_directory = workspace.artifacts.directory

    def directory(ref):
        workspace.artifacts.set_alias("champion", other)
        return read_directory(ref)

    monkeypatch.setattr(workspace.artifacts, "directory", directory)
    with pytest.raises(AliasConflictError):
        promote(workspace, "demo", PromoteConfig(), evaluation)
    assert champion(workspace) == other


def test_an_unknown_metric_is_refused_with_the_list_of_metrics(
    workspace, publish_model, publish_evaluation
):
    evaluation = publish_evaluation(publish_model("one"), 0.1, 0.3)
    with pytest.raises(ConfigError, match="token_f1, exact_match, rouge_l"):
        promote(workspace, "demo", PromoteConfig(metric="accuracy"), evaluation)


def test_a_metric_without_applicable_questions_promotes_nobody(
    workspace, publish_model, publish_evaluation
):
    evaluation = publish_evaluation(publish_model("one"), 0.1, 0.3)
    result = promote(workspace, "demo", PromoteConfig(metric="verbatim_quote_rate"), evaluation)
    assert not result.is_promoted
    assert result.difference is None
    assert "applies to none of the 64 questions" in result.reasons[0]


def test_an_evaluation_of_another_pipelines_model_is_refused(
    workspace, publish_model, publish_evaluation
):
    evaluation = publish_evaluation(publish_model("one"), 0.1, 0.3)
    with pytest.raises(InputError, match="not a model of 'other'"):
        promote(workspace, "other", PromoteConfig(), evaluation)
