"""The model card: `README.md`, in the hub's format (YAML front matter, then Markdown).

It answers what somebody who finds the folder asks: what is this made from, how good is it, under
which licence, how is it loaded, and how are prompts written.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from pipeline_lib.artifacts.manifest import ArtifactRef, Manifest
from pipeline_lib.config import FinetuneConfig, Objective
from pipeline_lib.config.training import sections_of_others
from pipeline_lib.models import ResolvedModel, licence_of
from pipeline_lib.raft.rendering import FORMAT_VERSION, SYSTEM_PROMPTS, render_prompt
from pipeline_lib.raft.rows import split_file
from pipeline_lib.training.export import ADAPTER_FOLDER, GGUF_FILE, MERGED_FOLDER
from pipeline_lib.training.layout import vllm_obstacles

CARD_FILE = "README.md"

_LEARNED: Mapping[Objective, str] = {
    "dapt": "the plain text of the training documents (domain-adaptive pre-training)",
    "sft": "the targets of the dataset's rows (supervised fine-tuning)",
    "dpo": "pairs of a verified and a spoilt answer (direct preference optimization)",
    "grpo": "its own answers, rewarded by verification (group-relative policy optimization)",
}


_DATA: Mapping[Objective, str] = {
    "dapt": """Learned is the text that the dataset holds of its training documents. Some of these
documents were held out: what is measured below is measured on them.""",
    "dpo": """Learned are pairs about the dataset's training rows; its own card says how they were
made and checked. Where the dataset has no pairs about validation rows, those of some training rows
were held out.""",
}
"""Of objectives that do not learn rows themselves."""
_ROWS = """Training rows of the dataset by task; its own card says how they were made and checked.
Documents were split before any question was written: validation rows are about documents that
training did not see."""
_MEASURES: Mapping[Objective, str] = {
    "dapt": "Losses are mean negative log-likelihoods per token (nats).",
    "sft": "Losses are mean negative log-likelihoods per learned token (nats).",
    "dpo": """The loss is that of the preference between two answers; accuracy is the share of pairs
of which the verified answer gained more than the other, and margin how much more.""",
    "grpo": """Rewards are means over answers, from 0 to 1; the validation loss is 1 minus the
reward.""",
}


@dataclass(frozen=True)
class _ShownPassage:
    title: str
    text: str


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What the files of a model do not say themselves."""

    ref: ArtifactRef
    base: ResolvedModel
    dataset: Manifest
    dataset_folder: Path
    config: FinetuneConfig
    """Of one stage."""
    learning_rate: float
    """Its peak."""
    previous: ArtifactRef | None = None
    """The model that was trained on, where that was not the base model."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """As in the manifest; so are the others."""
    counts: Mapping[str, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)


def write_model_card(target: Path, facts: CardFacts) -> None:
    """Write the card of the exported model in a folder."""
    sections = [
        _front_matter(facts),
        _introduction(facts),
        _data(facts),
        _results(facts),
        _use(target, facts),
        _prompts(),
        _limits(facts),
        _configuration(facts.config),
    ]
    text = "\n\n".join(sections)
    (target / CARD_FILE).write_text(f"{text}\n", encoding="utf-8")


def _configuration(config: FinetuneConfig) -> str:
    told = config.model_dump_json(indent=1, exclude=sections_of_others(config.stages))
    return f"## Configuration\n\n```json\n{told}\n```"


def _front_matter(facts: CardFacts) -> str:
    licence = licence_of(facts.base.path)
    relation = "adapter" if facts.config.method == "activated_lora" else "finetune"
    return f"""---
base_model: {json.dumps(facts.config.base_model)}
base_model_relation: {relation}
license: {json.dumps(licence.lower()) if licence else "other"}
library_name: {"peft" if relation == "adapter" else "transformers"}
pipeline_tag: text-generation
tags: [raft, retrieval-augmented-generation, raftline]
---"""


def _introduction(facts: CardFacts) -> str:
    rows = [
        ("artifact", f"`{facts.ref}`"),
        ("base model", f"`{facts.config.base_model}` (`{facts.base.identity}`)"),
        ("continued from", f"`{facts.previous}`" if facts.previous else "the base model"),
        ("learning rate", f"{facts.learning_rate:g}"),
        ("dataset", f"`{facts.dataset.ref}`"),
        *((f"dataset's {role}", f"`{ref}`") for role, ref in facts.dataset.input_refs.items()),
    ]
    return f"""# {facts.ref.name}

Answers questions from the passages it is given, and quotes the evidence word for word. Fine-tuned
from `{facts.config.base_model}` by Raftline: {_method(facts.config)} learned
{_LEARNED[facts.config.stages[0]]}.

{_table(("", ""), rows)}"""


def _method(config: FinetuneConfig) -> str:
    if not config.is_adapter:
        return "all weights"
    name = {
        "lora": "a LoRA",
        "dora": "a DoRA",
        "qlora": "a LoRA on 4-bit weights",
        "activated_lora": "an activated LoRA (off until the answer begins)",
    }[config.method]
    lora = config.lora
    return f"{name} (rank {lora.r}, alpha {lora.alpha}, modules `{lora.target_modules}`)"


def _data(facts: CardFacts) -> str:
    text = _DATA.get(facts.config.stages[0])
    if text is None:
        tasks = _rows_by_task(facts.dataset_folder)
        rows = [(task.replace("_", " "), f"{count:,}") for task, count in tasks.most_common()]
        text = f"{_ROWS}\n\n{_table(('Task', 'Rows'), rows)}"
    dropped = [
        (why.replace("_", " "), f"{count:,}") for why, count in sorted(facts.dropped.items())
    ]
    left_out = f"\n\n{_table(('Left out', 'Rows'), dropped)}" if dropped else ""
    return f"## Data\n\n{text}{left_out}"


def _rows_by_task(dataset: Path) -> Counter[str]:
    column = pq.read_table(dataset / split_file("train"), columns=["task"]).column("task")
    return Counter(column.to_pylist())


def _results(facts: CardFacts) -> str:
    measured = [
        (name, *("" if value is None else f"{value:.4g}" for value in values))
        for name, values in before_and_after(facts.metrics).items()
    ]
    counts = [
        (name.removeprefix("num_").replace("_", " "), f"{count:,}")
        for name, count in facts.counts.items()
    ]
    return f"""## Training

{_MEASURES[facts.config.stages[0]]} How the model compares with its base model on questions that it
never saw, its evaluation says: an artifact of the kind `evaluation` whose input it is.

{_table(("Measured", "Before", "After"), measured)}

{_table(("", ""), counts)}"""


def before_and_after(
    metrics: Mapping[str, float],
) -> dict[str, tuple[float | None, float | None]]:
    """What a model's manifest says was measured: before training, and of what is exported.

    `initial_validation_loss` and `final_validation_loss` are `validation loss`; of the training
    loss there is the last step's only.
    """
    initial, final = "initial_", "final_"
    names = dict.fromkeys(name.removeprefix(initial).removeprefix(final) for name in metrics)
    return {
        name.replace("_", " "): (metrics.get(initial + name), metrics.get(final + name))
        for name in names
    }


def _use(target: Path, facts: CardFacts) -> str:
    ways = []
    if (target / MERGED_FOLDER).is_dir():
        ways.append(
            f"- `{MERGED_FOLDER}/`: `transformers.AutoModelForCausalLM.from_pretrained`, or "
            f"`vllm serve <this folder>/{MERGED_FOLDER}`"
        )
    if (target / ADAPTER_FOLDER).is_dir():
        obstacles = vllm_obstacles(target / ADAPTER_FOLDER)
        served = (
            f"not for vLLM: {'; '.join(obstacles)}"
            if obstacles
            else "or `vllm serve <base model> --enable-lora --lora-modules <name>=<folder>`"
        )
        ways.append(
            f"- `{ADAPTER_FOLDER}/`: `peft.PeftModel.from_pretrained` on top of the base model "
            f"({served})"
        )
    if (target / GGUF_FILE).is_file():
        ways.append(f"- `{GGUF_FILE}`: llama.cpp and what is built on it")
    if facts.config.method == "activated_lora":
        ways.append(
            "- There are no merged weights: the adapter acts from the first token of the answer's "
            "turn on, and leaves the prompt to the base model."
        )
    return "## Use\n\n" + "\n".join(ways)


def _prompts() -> str:
    shown = render_prompt("a question", [_ShownPassage("a title", "the text of a passage")])
    messages = "\n\n".join(f"{message['role']}:\n{message['content']}" for message in shown)
    others = ", ".join(f"`{task}`" for task in sorted(SYSTEM_PROMPTS) if task != "answer")
    return f"""## Prompts

Two messages through the tokenizer's chat template (format version {FORMAT_VERSION}), written as
`pipeline_lib.raft.rendering.render_prompt` writes them:

```text
{messages}
```

Decode greedily; the answer ends with the end of the turn. Rows of other tasks differ in the system
message ({others})."""


def _limits(facts: CardFacts) -> str:
    licence = licence_of(facts.base.path)
    base = licence or "see its own card"
    return f"""## Licence and limits

The licences of the base model ({base}) and of the corpus apply to this model. It was
trained on passages of one corpus. Check quotes against their passages: Raftline's `answer` flow
does so and marks every quote that is not verbatim. A verbatim quote proves that words are in a
passage, not that the conclusion from them is right."""


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    lines += [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join(lines)
