"""The dataset card and the numbers on it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.config.contexts import TaskConfig
from pipeline_lib.raft.card import CardFacts, write_card
from pipeline_lib.raft.derived.preferences import PREFERENCES_FILE, PreferenceWriter
from pipeline_lib.raft.derived.tasks import derive_task_rows
from pipeline_lib.raft.rows import (
    SPLITS,
    RaftRow,
    ReasoningStep,
    iter_rows,
    split_file,
    write_rows,
)
from pipeline_lib.raft.statistics import DatasetStatistics
from tests.raft.made_rows import QUOTED, TEXTS, drawing, make_row, quote, refusing_row

FUNNEL = {
    "num_candidates": 9,
    "num_rows": 4,
    "steps": [
        {"name": "question", "kept": 6, "dropped": {"not_a_question": 2, "too_long": 1}},
        {"name": "quotes", "kept": 4, "dropped": {"stitched": 2}},
        {"name": "judge", "kept": 4, "dropped": {}},
    ],
}


def collect_statistics(dataset: Path) -> DatasetStatistics:
    statistics = DatasetStatistics()
    for split in SPLITS:
        for row in iter_rows(dataset / split_file(split)):
            statistics.add(row)
    return statistics


def write_dataset(folder: Path, rows: list[RaftRow]) -> Path:
    folder.mkdir()
    for split in ("train", "validation", "test"):
        write_rows(folder / split_file(split), [row for row in rows if row.split == split])
    (folder / "funnel.json").write_text(json.dumps(FUNNEL))
    return folder


@pytest.fixture
def rows() -> list[RaftRow]:
    base = make_row()
    return [
        base,
        *derive_task_rows(base, TaskConfig(relevance=1), seed=7, one_more=drawing()),
        refusing_row(row_id="no", kind="unanswerable", style="formal"),
        make_row("owl", "heron", row_id="v", split="validation"),
        make_row("owl", "heron", row_id="t", split="test"),
    ]


@pytest.fixture
def dataset(tmp_path: Path, rows: list[RaftRow]) -> Path:
    return write_dataset(tmp_path / "dataset", rows)


def facts(**changes: object) -> CardFacts:
    given = {
        "ref": ArtifactRef(kind="dataset", name="owls", fingerprint="ab" * 16),
        "inputs": {"corpus": ArtifactRef(kind="corpus", name="owls", fingerprint="cd" * 16)},
        "config": SynthesizeConfig(),
        "teacher": "scripted-7b",
    }
    return CardFacts(**given | changes)  # type: ignore[arg-type]


def card_of(dataset: Path, **changes: object) -> str:
    write_card(dataset, facts(**changes), collect_statistics(dataset))
    return (dataset / "README.md").read_text()


def test_mixes_are_counted_over_answer_rows_and_tasks_over_all(dataset: Path) -> None:
    found = collect_statistics(dataset)
    assert found.tasks == {
        ("train", "answer"): 2,
        ("train", "relevance"): 1,
        ("validation", "answer"): 1,
        ("test", "answer"): 1,
    }
    assert found.kinds["train", "factual"] == found.kinds["train", "unanswerable"] == 1
    assert found.targets["train", "refuse"] == 1
    assert found.styles["train", "formal"] == 1
    assert found.origins["train", "retrieved"] == 3
    assert found.origins["test", "oracle"] == 1
    assert (found.num_rows, found.num_of("train")) == (5, 2)


def test_quotes_are_verified_again_and_measured(dataset: Path) -> None:
    quotes = collect_statistics(dataset).quotes
    assert (quotes.num_quotes, quotes.num_verbatim, quotes.num_rows) == (3, 3, 3)
    assert quotes.mean_length == quotes.median_length == len(QUOTED)
    assert quotes.mean_covered == pytest.approx(len(QUOTED) / len(TEXTS["owl"]))


def test_overlapping_quotes_cover_their_union(tmp_path: Path) -> None:
    steps = tuple(
        ReasoningStep(text="", quote=quote(text=text))
        for text in ("The barn owl hunts mice", "owl hunts", "hunts mice at night.", QUOTED)
    )
    dataset = write_dataset(tmp_path / "dataset", [make_row(reasoning=steps)])
    quotes = collect_statistics(dataset).quotes
    union = len("The barn owl hunts mice at night.") + len(QUOTED)
    assert quotes.mean_covered == pytest.approx(union / len(TEXTS["owl"]))
    assert quotes.median_length == len("hunts mice at night.")


def test_statistics_and_samples_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    rows = [make_row(row_id=f"r{number}") for number in range(20)]
    forwards = collect_statistics(write_dataset(tmp_path / "a", rows))
    backwards = collect_statistics(write_dataset(tmp_path / "b", rows[::-1]))
    assert forwards == backwards
    assert list(forwards.samples) == [("factual", "answer")]


def test_an_empty_dataset_has_a_card_too(tmp_path: Path) -> None:
    card = card_of(write_dataset(tmp_path / "dataset", []))
    assert "| quotes | 0 |" in card
    assert "## Samples" not in card


def test_the_front_matter_is_yaml_and_names_the_files(dataset: Path) -> None:
    with PreferenceWriter(dataset / PREFERENCES_FILE):
        pass
    front = yaml.safe_load(card_of(dataset).split("---\n")[1])
    assert front["pretty_name"] == "owls"
    assert front["size_categories"] == ["n<1K"]
    default, preferences = front["configs"]
    assert [part["path"] for part in default["data_files"]] == [
        "train.parquet",
        "validation.parquet",
        "test.parquet",
    ]
    assert preferences == {"config_name": "preferences", "data_files": "preferences.parquet"}


def test_the_hubs_library_loads_the_folder_by_its_card(dataset: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    card_of(dataset)
    loaded = datasets.load_dataset(str(dataset), cache_dir=str(tmp_path / "cache"))
    assert {split: part.num_rows for split, part in loaded.items()} == {
        "train": 3,
        "validation": 1,
        "test": 1,
    }


def test_the_card_shows_funnel_mixes_quotes_lineage_and_configuration(dataset: Path) -> None:
    card = card_of(
        dataset,
        ledger={"num_completions": 12.0, "cost": 0.125},
        num_carried_over=2,
        teacher_licence="apache-2.0",
    )
    assert "| question | 6 | 2 not_a_question, 1 too_long |" in card
    assert "| judge | 4 | none |" in card
    assert "4 rows of 9 candidates" in card
    assert "| factual | 1 (50%) | 1 (100%) | 1 (100%) |" in card
    assert "| verbatim in the passage they cite | 3 (100.00%) |" in card
    assert f"| corpus | `corpus/owls/{'cd' * 16}` |" in card
    assert "| teacher | `scripted-7b` |" in card
    assert "| num completions | 12 |" in card
    assert "| rows taken over from the dataset before | 2 |" in card
    assert "apache-2.0" in card
    configuration = card.split("```json\n")[1].split("```")[0]
    assert SynthesizeConfig.model_validate_json(configuration) == SynthesizeConfig()


def test_a_partial_dataset_says_so_first(dataset: Path) -> None:
    assert "partial" not in card_of(dataset)
    card = card_of(dataset, notice="The budget of 5,000 tokens was spent.")
    title, notice = card.index("# owls"), card.index("This dataset is partial")
    assert title < notice < card.index("| artifact |")
    assert "The budget of 5,000 tokens was spent." in card


def test_samples_cannot_break_out_of_their_block(tmp_path: Path) -> None:
    hostile = "~~~ ``` ```` \n# Not a heading\n---"
    dataset = write_dataset(
        tmp_path / "dataset", [make_row(question=hostile, final_answer=hostile)]
    )
    card = card_of(dataset)
    sample = card.split("### factual, answer\n\n")[1]
    fence = sample.split("text\n")[0]
    assert fence == "`" * 5
    inside, outside = sample.split("text\n", 1)[1].split(f"\n{fence}", 1)
    assert "# Not a heading" in inside
    assert "# Not a heading" not in outside


def test_a_sample_shows_what_the_model_sees_and_writes(dataset: Path) -> None:
    card = card_of(dataset)
    assert "### factual, answer" in card
    assert "### unanswerable, refuse" in card
    assert "[4] Bat (retrieved, rank 1)" in card
    assert f'<quote doc="2">{QUOTED}</quote>' in card
