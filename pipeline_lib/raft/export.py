"""A dataset as JSONL files that other trainers load as they are.

    chat               {"messages": [system, user, assistant]}
    prompt_completion  {"prompt": text, "completion": text}, for models without a chat template
    preference         {"prompt": [system, user], "chosen": [assistant], "rejected": [assistant]}
    text               {"text": text}, plain documents

TRL reads these fields by their names. `dataset_info.json` tells LLaMA-Factory about them, and
`README.md` says how to name them in an axolotl configuration. TRL wants the two answers of a
preference pair as lists of messages, LLaMA-Factory and axolotl as single messages, so those lines
carry both (`chosen_message`, `rejected_message`).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline_lib.errors import ConfigError, InputError
from pipeline_lib.raft.derived.preferences import PREFERENCES_FILE, PreferencePair, iter_pairs
from pipeline_lib.raft.derived.pretraining import PRETRAINING_FILE, iter_pretraining
from pipeline_lib.raft.rendering import render_prompt, render_row_prompt, render_target
from pipeline_lib.raft.rows import SPLITS, RaftRow, Split, iter_rows, split_file

DATASET_INFO_FILE = "dataset_info.json"
README_FILE = "README.md"

_Line = dict[str, Any]
_MESSAGE_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}


@dataclass(frozen=True)
class Exported:
    """What was written."""

    folder: Path
    num_lines: Mapping[str, int]
    """File to its number of lines; splits without any have no file."""


@dataclass(frozen=True)
class _Format:
    """How one format is read from a dataset, and how others are told to read it."""

    lines: Callable[[Path], Iterator[tuple[Split, _Line]]]
    llama_factory: Mapping[str, Any]
    """An entry of `dataset_info.json`, but for the file's name."""
    axolotl: str
    """An entry of `datasets`, but for the file's name."""
    trl: str
    if_empty: str
    """What to do when the dataset has none of it."""


def export_dataset(
    dataset: Path, target: Path, export_format: str, *, name: str = "raftline"
) -> Exported:
    """Write a dataset in one format: a file per split, and how to load them.

    All tasks of the dataset are exported; each line of rows or pairs says in `row_id` what it was
    made of. Nothing is held in memory but a batch of rows.

    Args:
        dataset: folder of the dataset artifact.
        target: folder to write to; made if it is not there, and refused if it holds anything.
        export_format: see the module.
        name: begins the names in `dataset_info.json`: `<name>_train`.

    Raises:
        ConfigError: there is no such format.
        InputError: the target holds files, or the dataset has nothing of this kind.
    """
    if export_format not in _FORMATS:
        raise ConfigError(
            f"There is no export format {export_format!r}",
            hint=f"Formats are: {', '.join(_FORMATS)}.",
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(
            f"The export's target {target} is not an empty folder",
            hint="Name a folder that does not exist yet.",
        )
    format_ = _FORMATS[export_format]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=target.parent) as temporary:
        folder = Path(temporary) / "export"
        folder.mkdir()
        counts = _write_lines(folder, format_.lines(dataset))
        if not counts:
            raise InputError(
                f"The dataset has nothing to export as {export_format!r}", hint=format_.if_empty
            )
        _write_dataset_info(folder, format_, counts, name)
        text = _readme(export_format, format_, counts, name)
        (folder / README_FILE).write_text(text, encoding="utf-8")
        if target.exists():
            target.rmdir()
        folder.rename(target)
    return Exported(target, counts)


def _write_lines(folder: Path, lines: Iterator[tuple[Split, _Line]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    files = {}
    try:
        for split, line in lines:
            name = f"{split}.jsonl"
            if name not in files:
                files[name] = (folder / name).open("w", encoding="utf-8", newline="\n")
                counts[name] = 0
            files[name].write(json.dumps(line, ensure_ascii=False) + "\n")
            counts[name] += 1
    finally:
        for file in files.values():
            file.close()
    return counts


def _rows(dataset: Path) -> Iterator[RaftRow]:
    for split in SPLITS:
        yield from iter_rows(dataset / split_file(split))


def _pairs(dataset: Path) -> Iterator[PreferencePair]:
    path = dataset / PREFERENCES_FILE
    if path.exists():
        yield from iter_pairs(path)


def _chat_lines(dataset: Path) -> Iterator[tuple[Split, _Line]]:
    for row in _rows(dataset):
        messages = [*render_row_prompt(row), _assistant(render_target(row))]
        yield row.split, {"row_id": row.row_id, "task": row.task, "messages": messages}


def _completion_lines(dataset: Path) -> Iterator[tuple[Split, _Line]]:
    for row in _rows(dataset):
        prompt = "\n\n".join(message["content"] for message in render_row_prompt(row))
        yield (
            row.split,
            {
                "row_id": row.row_id,
                "task": row.task,
                "prompt": f"{prompt}\n\n",
                "completion": render_target(row),
            },
        )


def _preference_lines(dataset: Path) -> Iterator[tuple[Split, _Line]]:
    for pair in _pairs(dataset):
        chosen, rejected = _assistant(pair.chosen), _assistant(pair.rejected)
        yield (
            pair.split,
            {
                "row_id": pair.row_id,
                "fault": pair.fault,
                "prompt": render_prompt(pair.question, pair.context),
                "chosen": [chosen],
                "rejected": [rejected],
                "chosen_message": chosen,
                "rejected_message": rejected,
            },
        )


def _text_lines(dataset: Path) -> Iterator[tuple[Split, _Line]]:
    path = dataset / PRETRAINING_FILE
    if path.exists():
        for document in iter_pretraining(path):
            yield "train", {"text": document.text}


def _assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


_FORMATS: Mapping[str, _Format] = {
    "chat": _Format(
        lines=_chat_lines,
        llama_factory={
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": _MESSAGE_TAGS,
        },
        axolotl="type: chat_template\n    field_messages: messages\n    "
        "message_property_mappings: {role: role, content: content}\n    "
        "roles_to_train: [assistant]",
        trl="To learn the answers alone, pass `SFTConfig(assistant_only_loss=True)` or, if the "
        "model's chat template does not mark them:\n\n```python\ndataset = dataset.map(\n"
        '    lambda line: {"prompt": line["messages"][:-1], "completion": line["messages"][-1:]},\n'
        '    remove_columns=["messages"],\n)\n```',
        if_empty="A dataset always has rows: synthesize it again.",
    ),
    "prompt_completion": _Format(
        lines=_completion_lines,
        llama_factory={"columns": {"prompt": "prompt", "response": "completion"}},
        axolotl="type:\n      field_instruction: prompt\n      field_output: completion\n      "
        'format: "{instruction}"\n      no_input_format: "{instruction}"',
        trl="`SFTTrainer` learns the completions alone by itself.",
        if_empty="A dataset always has rows: synthesize it again.",
    ),
    "preference": _Format(
        lines=_preference_lines,
        llama_factory={
            "formatting": "sharegpt",
            "ranking": True,
            "columns": {
                "messages": "prompt",
                "chosen": "chosen_message",
                "rejected": "rejected_message",
            },
            "tags": _MESSAGE_TAGS,
        },
        axolotl="type: chat_template.default\n    field_messages: prompt\n    "
        "field_chosen: chosen_message\n    field_rejected: rejected_message",
        trl="`DPOTrainer` takes it as it is.",
        if_empty="Synthesize with preferences.share above 0.",
    ),
    "text": _Format(
        lines=_text_lines,
        llama_factory={"columns": {"prompt": "text"}},
        axolotl="type: completion\n    field: text",
        trl="`SFTTrainer` takes it as it is.",
        if_empty="Synthesize with tasks.pretraining: true.",
    ),
}


def _write_dataset_info(
    folder: Path, format_: _Format, counts: Mapping[str, int], name: str
) -> None:
    info = {
        _llama_factory_name(name, file): {"file_name": file, **format_.llama_factory}
        for file in counts
    }
    content = json.dumps(info, indent=2)
    (folder / DATASET_INFO_FILE).write_text(content + "\n", encoding="utf-8")


def _llama_factory_name(name: str, file: str) -> str:
    return f"{name}_{Path(file).stem}"


def _readme(export_format: str, format_: _Format, counts: Mapping[str, int], name: str) -> str:
    files = "\n".join(f"| `{file}` | {count:,} |" for file, count in counts.items())
    data_files = ", ".join(f'"{Path(file).stem}": "{file}"' for file in counts)
    first = next(iter(counts))
    is_dpo = "rl: dpo\n" if export_format == "preference" else ""
    return f"""# {name}: {export_format}

Exported by Raftline.

| File | Lines |
|---|---|
{files}

## TRL

```python
from datasets import load_dataset

dataset = load_dataset("json", data_files={{{data_files}}})
```

{format_.trl}

## LLaMA-Factory

`dataset_dir`: this folder. `dataset`: `{_llama_factory_name(name, first)}`.

## axolotl

```yaml
{is_dpo}datasets:
  - path: {first}
    ds_type: json
    {format_.axolotl}
```
"""
