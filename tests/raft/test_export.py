"""Exports load in other trainers as they are: checked with their own code where it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline_lib.config.contexts import PreferenceConfig, TaskConfig
from pipeline_lib.corpus.schema import Document
from pipeline_lib.errors import ConfigError, InputError
from pipeline_lib.raft.derived.preferences import PREFERENCES_FILE, PreferenceWriter, make_pair
from pipeline_lib.raft.derived.pretraining import PRETRAINING_FILE, write_pretraining
from pipeline_lib.raft.derived.tasks import derive_task_rows
from pipeline_lib.raft.export import export_dataset
from pipeline_lib.raft.rendering import render_row_prompt, render_target
from pipeline_lib.raft.rows import RaftRow, split_file, write_rows
from tests.raft.made_rows import drawing, make_row, refusing_row

FORMATS = ("chat", "prompt_completion", "preference", "text")
HOSTILE = 'He said "no"\u2028</document> <|im_end|> \\n {{ x }}'


@pytest.fixture(scope="module")
def rows() -> list[RaftRow]:
    """All tasks to train with, and one row each to validate and to test with."""
    base = make_row()
    everything = TaskConfig(relevance=1, ranking=1, quotes=1, refusal=1, closed_book=1)
    return [
        base,
        *derive_task_rows(base, everything, seed=7, one_more=drawing("stork")),
        refusing_row(row_id="no"),
        make_row(row_id="v", split="validation", final_answer=HOSTILE),
        make_row(row_id="t", split="test"),
    ]


@pytest.fixture(scope="module")
def dataset(rows: list[RaftRow], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    for split in ("train", "validation", "test"):
        write_rows(folder / split_file(split), [row for row in rows if row.split == split])
    with PreferenceWriter(folder / PREFERENCES_FILE) as writer:
        for row in rows:
            if row.task == "answer" and row.split != "test":
                pair = make_pair(row, PreferenceConfig(share=1), seed=7, one_more=drawing("stork"))
                assert pair is not None
                writer.write(pair)
    document = Document(
        document_id="d",
        source_uri="file:///d",
        title="D",
        media_type="text/plain",
        text=f"All of it.\n{HOSTILE}",
        content_sha256="",
    )
    write_pretraining(folder / PRETRAINING_FILE, [document], {"d": "train"})
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().decode().split("\n") if line]


def load(folder: Path) -> Any:
    """By the library that all three trainers read files with."""
    datasets = pytest.importorskip("datasets")
    files = {path.stem: str(path) for path in folder.glob("*.jsonl")}
    return datasets.load_dataset("json", data_files=files, cache_dir=str(folder / "cache"))


def test_chat_lines_are_what_training_renders(
    dataset: Path, rows: list[RaftRow], tmp_path: Path
) -> None:
    exported = export_dataset(dataset, tmp_path / "out", "chat")
    assert exported.num_lines == {"train.jsonl": 7, "validation.jsonl": 1, "test.jsonl": 1}
    written = [line for split in exported.num_lines for line in lines(exported.folder / split)]
    assert [line["messages"] for line in written] == [
        [*render_row_prompt(row), {"role": "assistant", "content": render_target(row)}]
        for row in rows
    ]
    assert [(line["row_id"], line["task"]) for line in written] == [
        (row.row_id, row.task) for row in rows
    ]


def test_prompts_and_completions_are_plain_text(
    dataset: Path, rows: list[RaftRow], tmp_path: Path
) -> None:
    exported = export_dataset(dataset, tmp_path / "out", "prompt_completion")
    [line] = lines(exported.folder / "test.jsonl")
    [row] = [row for row in rows if row.split == "test"]
    system, user = (message["content"] for message in render_row_prompt(row))
    assert line["prompt"] == f"{system}\n\n{user}\n\n"
    assert line["completion"] == render_target(row)


def test_preference_lines_carry_both_answers_in_both_shapes(dataset: Path, tmp_path: Path) -> None:
    exported = export_dataset(dataset, tmp_path / "out", "preference")
    assert exported.num_lines == {"train.jsonl": 2, "validation.jsonl": 1}
    for line in lines(exported.folder / "train.jsonl"):
        assert [message["role"] for message in line["prompt"]] == ["system", "user"]
        assert line["chosen"] == [line["chosen_message"]]
        assert line["rejected"] == [line["rejected_message"]]
        assert line["chosen"] != line["rejected"]


@pytest.mark.parametrize("export_format", FORMATS)
def test_every_export_loads_without_a_loading_script(
    dataset: Path, tmp_path: Path, export_format: str
) -> None:
    exported = export_dataset(dataset, tmp_path / "out", export_format)
    loaded = load(exported.folder)
    assert {f"{split}.jsonl": part.num_rows for split, part in loaded.items()} == dict(
        exported.num_lines
    )


@pytest.mark.parametrize("export_format", FORMATS)
def test_every_line_survives_whatever_a_document_says(
    dataset: Path, tmp_path: Path, export_format: str
) -> None:
    exported = export_dataset(dataset, tmp_path / "out", export_format)
    for file, count in exported.num_lines.items():
        assert len(lines(exported.folder / file)) == count
    text = json.dumps(
        [line for file in exported.num_lines for line in lines(exported.folder / file)]
    )
    assert r"\u2028" in text


@pytest.mark.parametrize("export_format", ["chat", "preference"])
def test_trl_takes_messages_as_a_conversation(
    dataset: Path, tmp_path: Path, smollm2_path: Path, export_format: str
) -> None:
    data_utils = pytest.importorskip("trl.data_utils")
    from transformers import AutoTokenizer

    exported = export_dataset(dataset, tmp_path / "out", export_format)
    tokenizer = AutoTokenizer.from_pretrained(smollm2_path)
    for line in load(exported.folder)["train"]:
        assert data_utils.is_conversational(line)
        applied = data_utils.maybe_apply_chat_template(line, tokenizer)
        if export_format == "chat":
            assert applied["text"].endswith(f"{line['messages'][-1]['content']}<|im_end|>\n")
        else:
            assert applied["prompt"].endswith("<|im_start|>assistant\n")
            assert applied["chosen"] == f"{line['chosen'][0]['content']}<|im_end|>\n"
            assert applied["rejected"] == f"{line['rejected'][0]['content']}<|im_end|>\n"


@pytest.mark.parametrize("export_format", ["prompt_completion", "text"])
def test_trl_takes_plain_text_as_plain_text(
    dataset: Path, tmp_path: Path, export_format: str
) -> None:
    data_utils = pytest.importorskip("trl.data_utils")
    exported = export_dataset(dataset, tmp_path / "out", export_format)
    assert not any(map(data_utils.is_conversational, load(exported.folder)["train"]))


def test_llama_factory_is_told_where_everything_is(dataset: Path, tmp_path: Path) -> None:
    for export_format in FORMATS:
        folder = tmp_path / export_format
        exported = export_dataset(dataset, folder, export_format, name="owls")
        info = json.loads((folder / "dataset_info.json").read_text())
        assert {entry["file_name"] for entry in info.values()} == set(exported.num_lines)
        for entry in info.values():
            [line, *_] = lines(folder / entry["file_name"])
            assert set(entry["columns"].values()) <= set(line)
            if entry.get("formatting") == "sharegpt":
                messages = line[entry["columns"]["messages"]]
                assert set(messages[0]) == {entry["tags"]["role_tag"], entry["tags"]["content_tag"]}
            if entry.get("ranking"):
                assert isinstance(line[entry["columns"]["chosen"]], dict)
    assert set(info) == {"owls_train"}


@pytest.mark.parametrize("export_format", FORMATS)
def test_the_readmes_axolotl_entry_is_yaml_and_names_fields_there_are(
    dataset: Path, tmp_path: Path, export_format: str
) -> None:
    exported = export_dataset(dataset, tmp_path / "out", export_format)
    readme = (exported.folder / "README.md").read_text()
    configuration = yaml.safe_load(readme.split("```yaml\n")[1].split("```")[0])
    [entry] = configuration["datasets"]
    [line, *_] = lines(exported.folder / entry["path"])
    nested = entry["type"] if isinstance(entry["type"], dict) else {}
    fields = [name for key, name in {**entry, **nested}.items() if key.startswith("field")]
    assert fields
    assert set(fields) <= set(line)
    assert configuration.get("rl") == ("dpo" if export_format == "preference" else None)


def test_the_same_dataset_exports_the_same_bytes(dataset: Path, tmp_path: Path) -> None:
    first = export_dataset(dataset, tmp_path / "a", "chat").folder
    second = export_dataset(dataset, tmp_path / "b", "chat").folder
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_what_is_not_in_the_dataset_cannot_be_exported(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    for split in ("train", "validation", "test"):
        write_rows(tmp_path / "bare" / split_file(split), [])
    for export_format, hint in (("preference", "preferences.share"), ("text", "tasks.pretraining")):
        with pytest.raises(InputError) as caught:
            export_dataset(tmp_path / "bare", tmp_path / "out", export_format)
        assert hint in (caught.value.hint or "")
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["bare"]


def test_an_export_never_overwrites(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    for target in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(InputError, match="not an empty folder"):
            export_dataset(dataset, target, "chat")
    (tmp_path / "new").mkdir()
    assert export_dataset(dataset, tmp_path / "new", "chat").num_lines


def test_an_unknown_format_is_refused_with_those_there_are(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no export format 'parquet'") as caught:
        export_dataset(dataset, tmp_path / "out", "parquet")
    assert "prompt_completion" in (caught.value.hint or "")
