"""The stage `evaluate`, with scripted models and retrieval on real S3."""

from __future__ import annotations

import json
import weakref
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import EvaluateConfig, FrozenConfig
from pipeline_lib.errors import GenerationError, InputError, ModelNotFoundError
from pipeline_lib.evaluation.records import read_records, read_summary
from pipeline_lib.evaluation.stage import evaluate
from pipeline_lib.generation.base import Completion, Score
from pipeline_lib.models import resolve_model
from pipeline_lib.raft.rendering import render_prompt, render_target
from pipeline_lib.raft.rows import RaftRow, split_file, write_rows
from pipeline_lib.retrieval.search import Hit
from pipeline_lib.stage import Workspace, run_stage
from tests.raft.made_rows import bare_passage, bare_row

ANIMALS = ("fox", "dog", "owl", "bee", "elk")
CONFIG = EvaluateConfig(
    num_bootstrap_samples=100, cutoffs=(1, 3), context_size=2, max_questions=4, batch_size=2
)


def oracle_text(animal: str) -> str:
    return f"The {animal} sleeps in the {animal} house. It eats {animal} food every day."


def make_row(number: int, animal: str) -> RaftRow:
    return bare_row(
        f"Where does the {animal} sleep?",
        row_id=f"row-{number}",
        row_key=f"row-{number}",
        split="test",
        chunk_id=animal,
        document_id=f"d-{animal}",
        title=animal,
        text=oracle_text(animal),
        quoted=f"The {animal} sleeps in the {animal} house.",
        after=[bare_passage("stored", "A passage only the dataset holds.", title="stored")],
        final_answer=f"In the {animal} house",
    )


ROWS = [make_row(number, animal) for number, animal in enumerate(ANIMALS)]


class FakeSearcher:
    """Finds the oracle first, except for the owl, whose oracle it never finds."""

    num_calls = 0

    def search(self, queries, *, limit, config) -> list[list[Hit]]:
        self.num_calls += 1
        return [self._hits(query, limit) for query in queries]

    def _hits(self, query: str, limit: int) -> list[Hit]:
        animal = next(a for a in ANIMALS if a in query)
        names = [a for a in (animal, *ANIMALS) if a != "owl"]
        return [
            Hit(
                chunk_id=name,
                document_id=f"d-{name}",
                title=name,
                source_uri=f"file:///{name}.md",
                text=oracle_text(name),
                start=0,
                end=len(oracle_text(name)),
                rank=rank,
                score=1 / rank,
            )
            for rank, name in enumerate(dict.fromkeys(names), start=1)
        ][:limit]


class FakeModel:
    """Base rambles; tuned models answer as the dataset's rows do."""

    def __init__(
        self,
        arm: str,
        batch_size: int,
        fail_after: int | None = None,
        fail_scoring_after: int | None = None,
    ) -> None:
        self.arm = arm
        self.model_identity = arm
        self.batch_size = batch_size
        self.fail_after = fail_after
        self.fail_scoring_after = fail_scoring_after
        self.prompts: list[str] = []
        self.scored: list[tuple[str, str]] = []

    def generate(self, prompts, params, *, on_completed=None) -> list[Completion]:
        assert params.temperature == 0
        done: list[Completion] = []
        for start in range(0, len(prompts), self.batch_size):
            if self.fail_after is not None and len(done) >= self.fail_after:
                raise GenerationError("killed")
            batch = [self._complete(p) for p in prompts[start : start + self.batch_size]]
            on_completed(range(start, start + len(batch)), batch)
            done += batch
        return done

    def _complete(self, prompt) -> Completion:
        text = str(prompt.messages)
        self.prompts.append(text)
        row = next(row for row in ROWS if row.question in text)
        answer = "It sleeps somewhere." if self.arm == "base" else render_target(row)
        return Completion(answer, 100, 10, "stop")

    def score(self, prompts, targets, *, with_end=True) -> list[Score]:
        if self.fail_scoring_after is not None and len(self.scored) >= self.fail_scoring_after:
            raise GenerationError("killed")
        self.scored += [(str(p.messages), t) for p, t in zip(prompts, targets, strict=True)]
        return [Score(20.0 if self.arm == "base" else 10.0, 10) for _ in prompts]


class _Tag(FrozenConfig):
    base_model: str
    tag: str = ""


class Stand:
    """One pipeline's artifacts, with scripted models and retrieval."""

    def __init__(self, ws: Workspace, folder: Path) -> None:
        self.ws = ws
        self.base_path = folder / "base"
        self.base_path.mkdir()
        (self.base_path / "config.json").write_text("{}")
        (self.base_path / "model.safetensors").write_bytes(b"weights")
        self.searcher = FakeSearcher()
        self.opened: list[FakeModel] = []
        self.fail_after: dict[str, int] = {}
        self.fail_scoring_after: dict[str, int] = {}
        self.index = self.publish("index", {"index.json": "{}"})
        self.model = self.publish_model("candidate")
        self.dataset = self.publish_dataset(ROWS)

    def publish(
        self, kind, files, tag="", inputs=None, rows=None, name="demo", details=None
    ) -> ArtifactRef:
        def build(draft) -> None:
            draft.details.update(details or {})
            for name, text in files.items():
                path = draft.directory / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            if rows is not None:
                write_rows(draft.directory / split_file("test"), rows)

        return run_stage(
            self.ws,
            kind=kind,
            name=name,
            stage=f"make-{kind}",
            stage_version=1,
            config=_Tag(base_model=str(self.base_path), tag=tag),
            inputs=inputs or {},
            build=build,
        ).ref

    def publish_model(
        self, tag: str, name="demo", loss=2.5, previous: ArtifactRef | None = None
    ) -> ArtifactRef:
        log = json.dumps({"step": 1, "loss": loss}) + "\n"
        identity = resolve_model(self.ws.settings, str(self.base_path)).identity
        files = {"merged/config.json": "{}", "log.jsonl": log}
        inputs = {"base_model": identity} | ({"previous": previous} if previous else {})
        objective = name.partition("-")[2] or "dpo"
        details = {"objective": objective}
        return self.publish("model", files, tag, inputs, name=name, details=details)

    def publish_dataset(self, rows: Sequence[RaftRow], tag: str = "") -> ArtifactRef:
        funnel = {"steps": [{"name": "generated", "kept": 5, "dropped": {"too_short": 2}}]}
        return self.publish("dataset", {"funnel.json": json.dumps(funnel)}, tag, rows=rows)

    def evaluate(self, config=CONFIG, **changes):
        def open_model(arm, batch_size):
            model = FakeModel(
                arm.name,
                batch_size,
                self.fail_after.get(arm.name),
                self.fail_scoring_after.get(arm.name),
            )
            self.opened.append(model)
            return model

        inputs = {"model": self.model, "dataset": self.dataset, "index": self.index, **changes}
        open_model = inputs.pop("open_model", open_model)
        return evaluate(
            self.ws,
            "demo",
            config,
            open_model=open_model,
            open_searcher=lambda _ws, _index: self.searcher,
            **inputs,
        )

    def files(self, result) -> Path:
        return self.ws.artifacts.directory(result.ref)


@pytest.fixture
def stand(workspace, tmp_path) -> Stand:
    return Stand(workspace, tmp_path)


def test_an_evaluation_leaves_records_numbers_and_a_report(stand):
    result = stand.evaluate()
    folder = stand.files(result)
    records, summary = read_records(folder / "records.parquet"), read_summary(folder)
    assert [record.row_id for record in records] == ["row-0", "row-1", "row-2", "row-3"]
    assert result.counts == {"num_questions": 4, "num_oracle_in_context": 3, "num_arms": 2}
    assert result.dropped == {"beyond_max_questions": 1}
    assert summary.arms["candidate"]["exact_match"].mean == 1.0
    assert summary.arms["candidate"]["oracle_citation_rate"].mean == 1.0
    assert summary.retrieval["recall@1"].mean == 0.75
    assert result.metrics["candidate/token_f1"] == 1.0
    assert result.metrics["retrieval/mrr@3"] == 0.75
    report = (folder / "report.html").read_text()
    assert "Where does the fox sleep?" in report
    assert "2 too short" in report
    assert "training: 2.500 at step 1" in report
    assert str(stand.dataset) in report


def test_every_arm_gets_the_same_retrieved_passages_from_one_search(stand):
    stand.evaluate()
    base, candidate = stand.opened
    assert base.prompts == candidate.prompts
    assert stand.searcher.num_calls == 1
    [fox] = [prompt for prompt in base.prompts if "Where does the fox sleep?" in prompt]
    assert oracle_text("fox") in fox
    assert "only the dataset holds" not in fox


def test_perplexity_is_that_of_the_rows_target_after_the_rows_own_context(stand):
    result = stand.evaluate()
    [base, _candidate] = stand.opened
    expected = {
        (str(tuple((m["role"], m["content"]) for m in render_prompt(r.question, r.context))),
         render_target(r))
        for r in ROWS[:4]
    }  # fmt: skip
    assert set(base.scored) == expected
    summary = read_summary(stand.files(result))
    assert summary.arms["base"]["answer_perplexity"].mean == pytest.approx(2.718281828**2)


def test_an_answer_without_tag_is_scored_as_a_whole_and_says_so(stand):
    result = stand.evaluate()
    [record, *_] = read_records(stand.files(result) / "records.parquet")
    base, candidate = record.answer("base"), record.answer("candidate")
    assert (base.final_answer, base.has_answer_tag) == ("It sleeps somewhere.", False)
    assert (candidate.final_answer, candidate.has_answer_tag) == ("In the fox house", True)
    assert [quote.status for quote in candidate.quotes] == ["verbatim"]
    [quote] = candidate.quotes
    assert oracle_text("fox")[quote.start : quote.end] == quote.text


def test_the_same_evaluation_is_reused_without_asking_anybody(stand):
    first = stand.evaluate()
    stand.opened.clear()
    again = stand.evaluate()
    assert again.reused
    assert again.ref == first.ref
    assert stand.opened == []
    assert stand.searcher.num_calls == 1


def test_the_batch_size_does_not_change_the_evaluation(stand):
    first = stand.evaluate()
    again = stand.evaluate(CONFIG.model_copy(update={"batch_size": 4}))
    assert again.ref == first.ref


def test_a_killed_evaluation_asks_only_for_what_is_missing(stand):
    stand.fail_after = {"candidate": 2}
    with pytest.raises(GenerationError):
        stand.evaluate()
    [base, candidate] = stand.opened
    assert (len(base.prompts), len(base.scored)) == (4, 4)
    assert len(candidate.prompts) == 2
    stand.opened.clear()
    stand.fail_after = {}
    result = stand.evaluate()
    [resumed] = stand.opened  # the base model is not even loaded
    assert resumed.arm == "candidate"
    assert len(resumed.prompts) == 2
    assert set(resumed.prompts).isdisjoint(candidate.prompts)
    assert stand.searcher.num_calls == 1
    assert read_summary(stand.files(result)).arms["candidate"]["exact_match"].mean == 1.0
    assert stand.ws.artifacts.partial(result.ref).keys() == []


def test_answers_are_not_paid_again_when_scoring_was_killed(stand):
    stand.fail_scoring_after = {"base": 2}
    with pytest.raises(GenerationError):
        stand.evaluate()
    stand.opened.clear()
    stand.fail_scoring_after = {}
    stand.evaluate()
    base, _candidate = stand.opened
    assert (len(base.prompts), len(base.scored)) == (0, 2)


def test_only_one_arms_model_is_in_memory_at_a_time(stand):
    alive: list[weakref.ref[FakeModel]] = []

    def open_model(arm, batch_size):
        assert all(model() is None for model in alive)
        model = FakeModel(arm.name, batch_size)
        alive.append(weakref.ref(model))
        return model

    champion = stand.publish_model("champion")
    stand.evaluate(open_model=open_model, baseline=champion)
    assert len(alive) == 3


def test_the_report_shows_every_stage_of_the_training_but_not_that_of_a_champion(stand):
    champion = stand.publish_model("old", loss=7.5)
    first = stand.publish_model("first", name="demo-sft", loss=4.5, previous=champion)
    last = stand.publish_model("last", loss=0.5, previous=first)
    report = (stand.files(stand.evaluate(model=last)) / "report.html").read_text()
    assert report.index("training: 4.500 at step 1") < report.index("training: 0.500 at step 1")
    assert "7.500" not in report
    going_on = stand.publish_model("going on", loss=1.5, previous=champion)
    report = (stand.files(stand.evaluate(model=going_on)) / "report.html").read_text()
    assert "training: 1.500 at step 1" in report
    assert "7.500" not in report


def test_the_champion_is_an_arm_unless_it_is_the_candidate(stand):
    champion = stand.publish_model("champion")
    with_champion = stand.evaluate(baseline=champion)
    summary = read_summary(stand.files(with_champion))
    assert list(summary.arms) == ["base", "candidate", "champion"]
    assert summary.comparison("token_f1", "champion").difference == 0
    without = stand.evaluate(baseline=stand.model)
    assert list(read_summary(stand.files(without)).arms) == ["base", "candidate"]
    assert without.ref == stand.evaluate().ref != with_champion.ref


def test_an_empty_split_is_refused_with_advice(stand):
    empty = stand.publish_dataset([], tag="empty")
    with pytest.raises(InputError, match="test split has no rows") as caught:
        stand.evaluate(dataset=empty)
    assert caught.value.hint


def test_a_base_model_that_is_not_the_one_fine_tuned_is_refused(stand):
    (stand.base_path / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(ModelNotFoundError, match="was fine-tuned from"):
        stand.evaluate()
