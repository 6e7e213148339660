"""Answering one question, with a scripted model and retrieval on real S3."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline_lib.answering import Answer, answer
from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import BUNDLED_LANGUAGE_MODEL, AnswerConfig, FrozenConfig
from pipeline_lib.errors import ArtifactNotFoundError, ConfigError
from pipeline_lib.generation.base import Completion
from pipeline_lib.raft.rendering import render_target
from pipeline_lib.retrieval.search import Hit
from pipeline_lib.stage import Workspace, run_stage
from tests.raft.made_rows import bare_passage, bare_row

TEXTS = {"fox": "The fox sleeps by day. It hunts by night.", "dog": "The dog barks by day."}
QUESTION = AnswerConfig(question="When does the fox sleep?", name="demo", context_size=2)


def target(quoted: str) -> str:
    """What a model writes that quotes `quoted` from the first passage."""
    row = bare_row(
        QUESTION.question,
        split="test",
        chunk_id="fox",
        title="fox",
        text=TEXTS["fox"],
        quoted=quoted,
        after=[bare_passage("dog", TEXTS["dog"], title="dog")],
        final_answer="By day",
    )
    return render_target(row)


class FakeSearcher:
    def search(self, queries, *, limit, config) -> list[list[Hit]]:
        hits = [
            Hit(
                chunk_id=name,
                document_id=name,
                title=name.title(),
                source_uri=f"file:///{name}.md",
                text=text,
                start=0,
                end=len(text),
                rank=rank,
                score=1 / rank,
            )
            for rank, (name, text) in enumerate(TEXTS.items(), start=1)
        ]
        return [hits[:limit] for _ in queries]


class FakeModel:
    model_identity = "fake"

    def __init__(self, text: str) -> None:
        self.text = text

    def generate(self, prompts, params, *, on_completed=None) -> list[Completion]:
        assert len(prompts) == 1
        assert params.temperature == 0
        return [Completion(self.text, 50, 10, "stop")]


class _Tag(FrozenConfig):
    base_model: str
    tag: str = ""


def publish(ws: Workspace, kind: str, tag: str = "", base_model: str = "none") -> ArtifactRef:
    def build(draft) -> None:
        path = draft.directory / "merged" / "config.json"
        path.parent.mkdir()
        path.write_text("{}")

    return run_stage(
        ws,
        kind=kind,  # type: ignore[arg-type]
        name="demo",
        stage="test",
        stage_version=1,
        config=_Tag(base_model=base_model, tag=tag),
        inputs={},
        build=build,
    ).ref


@pytest.fixture
def ask(workspace):
    """Ask with a scripted model; `opened` holds the models that were opened."""
    opened = []

    def ask(text: str = "By day.", **changes) -> Answer:
        def open_model(model):
            opened.append(model)
            return FakeModel(text)

        return answer(
            workspace,
            QUESTION.model_copy(update=changes),
            open_model=open_model,
            open_searcher=lambda _ws, _index: FakeSearcher(),
        )

    ask.opened = opened
    return ask


@pytest.fixture
def index(workspace) -> ArtifactRef:
    return publish(workspace, "index")


@pytest.fixture
def champion(workspace) -> ArtifactRef:
    ref = publish(workspace, "model", "champion")
    workspace.artifacts.set_alias("champion", ref)
    return ref


def test_an_answer_carries_its_quotes_with_their_source(ask, index, champion):
    result = ask(target("The fox sleeps by day."))
    assert result.final_answer == "By day"
    assert not result.is_refusal
    [quote] = result.quotes
    assert (quote.text, quote.status) == ("The fox sleeps by day.", "verbatim")
    assert (quote.chunk_id, quote.title, quote.source_uri) == ("fox", "Fox", "file:///fox.md")
    assert [(p.number, p.chunk_id) for p in result.passages] == [(1, "fox"), (2, "dog")]
    assert (result.model, result.index) == (str(champion), str(index))


def test_an_invented_quote_is_called_absent_and_has_no_source(ask, index, champion):
    written = target("The fox sleeps by day.").replace("sleeps by day", "flies to the moon")
    [quote] = ask(written).quotes
    assert quote.status == "absent"
    assert (quote.chunk_id, quote.title, quote.source_uri) == (None, None, None)


def test_an_answer_without_any_mark_is_still_an_answer(ask, index, champion):
    result = ask("By day, I think.")
    assert result.text == "By day, I think."
    assert result.final_answer is None
    assert result.quotes == ()


def test_an_answer_is_json_and_back(ask, index, champion):
    result = ask(target("The fox sleeps by day."))
    assert Answer.model_validate_json(result.model_dump_json()) == result


def test_the_champions_merged_weights_answer(ask, index, champion, workspace):
    ask()
    [opened] = ask.opened
    assert opened.path == workspace.artifacts.directory(champion) / "merged"


def test_a_model_can_be_named_by_alias_or_fingerprint(ask, index, champion, workspace):
    other = publish(workspace, "model", "other")
    assert ask(model="latest").model == str(other)
    assert ask(model=champion.fingerprint).model == str(champion)
    assert ask(model=champion.fingerprint[:12]).model == str(champion)


def test_base_is_what_the_latest_model_was_tuned_from(ask, index, workspace, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    publish(workspace, "model", base_model=str(tmp_path))
    assert ask(model="base").model == str(tmp_path)
    [opened] = ask.opened
    assert opened.path == tmp_path.resolve()


def test_base_before_any_training_is_the_default_base_model(ask, index, monkeypatch):
    asked: list[str] = []

    def resolve(_settings, name, _progress):
        asked.append(name)
        raise ConfigError("enough")

    monkeypatch.setattr("pipeline_lib.answering.resolve_model", resolve)
    with pytest.raises(ConfigError, match="enough"):
        ask(model="base")
    assert asked == [BUNDLED_LANGUAGE_MODEL]


def test_without_any_model_the_hint_says_what_to_run(ask, index):
    with pytest.raises(ArtifactNotFoundError, match="'champion'") as caught:
        ask()
    assert "run the pipeline first" in caught.value.hint


def test_without_a_champion_the_hint_names_the_aliases_there_are(ask, index, workspace):
    publish(workspace, "model")
    with pytest.raises(ArtifactNotFoundError) as caught:
        ask()
    assert "latest" in caught.value.hint


def test_without_an_index_the_hint_says_what_to_run(ask, champion):
    with pytest.raises(ArtifactNotFoundError, match="no index 'demo'") as caught:
        ask()
    assert "index" in caught.value.hint


@pytest.mark.parametrize("model", ["", "../secrets", "a b", "Champion"])
def test_a_malformed_model_name_is_refused(ask, index, champion, model):
    with pytest.raises(ConfigError, match="names no model"):
        ask(model=model)


def test_the_default_opener_is_the_in_process_generator(tmp_path: Path):
    from pipeline_lib.answering import AnsweringModel, open_local_model
    from pipeline_lib.errors import ModelNotFoundError

    with pytest.raises(ModelNotFoundError):
        open_local_model(AnsweringModel("none", tmp_path, "none"))
