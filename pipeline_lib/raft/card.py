"""The dataset card: `README.md`, in the hub's format (YAML front matter, then Markdown)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.raft.derived.preferences import PREFERENCES_FILE
from pipeline_lib.raft.derived.pretraining import PRETRAINING_FILE
from pipeline_lib.raft.funnel import FUNNEL_FILE
from pipeline_lib.raft.quotes import fold
from pipeline_lib.raft.rendering import render_target
from pipeline_lib.raft.rows import SPLITS, RaftRow, split_file
from pipeline_lib.raft.statistics import BySplit, DatasetStatistics

CARD_FILE = "README.md"

_MAX_SAMPLES = 6
_SHOWN_CHARS = 300
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LARGEST_SIZE = "n>1M"
_BACKTICKS = re.compile("`+")


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What the files of a dataset do not say themselves."""

    ref: ArtifactRef
    inputs: Mapping[str, ArtifactRef]
    """Role to artifact: corpus, index, the dataset before."""
    config: SynthesizeConfig
    teacher: str
    """Name or identity of the model that wrote."""
    teacher_licence: str | None = None
    ledger: Mapping[str, float] = field(default_factory=dict)
    """As in the manifest."""
    notice: str = ""
    """Why the dataset is partial; empty when it is whole."""
    num_carried_over: int = 0
    """RAFT rows taken over from the dataset before."""


def write_card(dataset: Path, facts: CardFacts, statistics: DatasetStatistics) -> None:
    """Write the card of the dataset in a folder.

    Args:
        dataset: has `funnel.json`.
        facts: what its files do not say.
        statistics: of its rows.
    """
    funnel = json.loads((dataset / FUNNEL_FILE).read_text(encoding="utf-8"))
    sections = [
        _front_matter(dataset, facts, statistics),
        _introduction(facts, statistics),
        _mixes(statistics),
        _quotes(statistics),
        _funnel(funnel),
        _samples(statistics),
        _making(facts),
        _limits(facts),
        f"## Configuration\n\n```json\n{facts.config.model_dump_json(indent=1)}\n```",
    ]
    text = "\n\n".join(section for section in sections if section)
    (dataset / CARD_FILE).write_text(f"{text}\n", encoding="utf-8")


def _front_matter(dataset: Path, facts: CardFacts, statistics: DatasetStatistics) -> str:
    size = next((name for limit, name in _SIZES if statistics.num_rows < limit), _LARGEST_SIZE)
    files = "\n".join(f"  - split: {split}\n    path: {split_file(split)}" for split in SPLITS)
    further = "".join(
        f"- config_name: {Path(file).stem}\n  data_files: {file}\n"
        for file in (PREFERENCES_FILE, PRETRAINING_FILE)
        if (dataset / file).exists()
    )
    return f"""---
pretty_name: {json.dumps(facts.ref.name)}
license: other
task_categories: [question-answering, text-generation]
size_categories: ["{size}"]
tags: [raft, retrieval-augmented-generation, raftline]
configs:
- config_name: default
  data_files:
{files}
{further}---"""


def _introduction(facts: CardFacts, statistics: DatasetStatistics) -> str:
    rows = [("artifact", f"`{facts.ref}`")]
    rows += [(role, f"`{artifact}`") for role, artifact in facts.inputs.items()]
    rows.append(("teacher", f"`{facts.teacher}`"))
    rows += [(f"RAFT rows, {split}", f"{statistics.num_of(split):,}") for split in SPLITS]
    rows.append(("rows of other tasks", f"{statistics.num_rows - statistics.kinds.total():,}"))
    if facts.num_carried_over:
        rows.append(("rows taken over from the dataset before", f"{facts.num_carried_over:,}"))
    notice = f"> **This dataset is partial.** {facts.notice}\n\n" if facts.notice else ""
    return f"""# {facts.ref.name}

{notice}Questions about a body of documents, each with passages, and an answer that reasons and
quotes its evidence word for word: training data for Retrieval Augmented Fine-Tuning (RAFT, Zhang et
al. 2024), made by Raftline. Documents were split before any question was written, so no test
question is about a document that training saw.

{_table(("", ""), rows)}"""


def _mixes(statistics: DatasetStatistics) -> str:
    mixes: Mapping[str, BySplit] = {
        "Task": statistics.tasks,
        "Kind of question": statistics.kinds,
        "Style": statistics.styles,
        "Target": statistics.targets,
        "Origin of passages": statistics.origins,
        "Questions by": statistics.question_sources,
        "Answers by": statistics.answer_sources,
    }
    return "## Mixes\n\n" + "\n\n".join(_mix(title, mix) for title, mix in mixes.items() if mix)


def _mix(title: str, mix: BySplit) -> str:
    """Number and share of each name in each split, the most frequent first."""
    totals = {split: sum(n for (of, _), n in mix.items() if of == split) for split in SPLITS}
    names = sorted({name for _, name in mix}, key=lambda name: (-mix["train", name], name))
    rows = [
        (name, *(_with_share(mix[split, name], totals[split]) for split in SPLITS))
        for name in names
    ]
    return _table((title, *SPLITS), rows)


def _with_share(count: int, total: int) -> str:
    return f"{count:,} ({100 * count / total:.0f}%)" if count else "0"


def _quotes(statistics: DatasetStatistics) -> str:
    quotes = statistics.quotes
    share = 100 * quotes.num_verbatim / max(1, quotes.num_quotes)
    rows = [
        ("quotes", f"{quotes.num_quotes:,}"),
        ("verbatim in the passage they cite", f"{quotes.num_verbatim:,} ({share:.2f}%)"),
        ("quotes per row that quotes", f"{quotes.num_quotes / max(1, quotes.num_rows):.2f}"),
        ("length, mean (characters)", f"{quotes.mean_length:.0f}"),
        ("length, median (characters)", f"{quotes.median_length}"),
        ("share of the oracle's text that is quoted, mean", f"{100 * quotes.mean_covered:.1f}%"),
    ]
    return f"## Quotes\n\n{_table(('', ''), rows)}"


def _funnel(funnel: Mapping[str, Any]) -> str:
    rows = [
        (
            step["name"],
            f"{step['kept']:,}",
            ", ".join(f"{n:,} {reason}" for reason, n in step["dropped"].items()) or "none",
        )
        for step in funnel["steps"]
    ]
    candidates, kept = funnel["num_candidates"], funnel["num_rows"]
    return f"""## Yield

{kept:,} rows of {candidates:,} candidates. `rejects.parquet` has what was dropped, with reasons.

{_table(("Step", "Kept", "Dropped"), rows)}"""


def _samples(statistics: DatasetStatistics) -> str:
    """Training rows of different kinds and targets."""
    chosen = [statistics.samples[key] for key in sorted(statistics.samples)][:_MAX_SAMPLES]
    if not chosen:
        return ""
    shown = "\n\n".join(f"### {row.kind}, {row.target}\n\n{_sample(row)}" for row in chosen)
    return f"## Samples\n\n{shown}"


def _sample(row: RaftRow) -> str:
    lines = [f"Question: {fold(row.question)}", ""]
    for number, passage in enumerate(row.context, start=1):
        what = passage.origin if passage.rank is None else f"{passage.origin}, rank {passage.rank}"
        lines.append(f"[{number}] {fold(passage.title)} ({what})")
        lines.append(f"    {_shortened(fold(passage.text))}")
    lines += ["", render_target(row)]
    return _fenced("\n".join(lines))


def _fenced(text: str) -> str:
    """`text` as a code block that nothing in it can end."""
    longest = max((len(run) for run in _BACKTICKS.findall(text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS].rstrip()} …"


def _making(facts: CardFacts) -> str:
    rows = [(name.replace("_", " "), f"{value:,.6g}") for name, value in facts.ledger.items()]
    table = f"\n\n{_table(('Ledger', ''), rows)}" if rows else ""
    return f"""## How it was made

What is the teacher's above, `{facts.teacher}` wrote from the oracle passages alone, whatever the
row's context holds. Gates then checked each row, among them that every quote is verbatim in the
passage it cites. Distractors, their order and every other draw follow from the seed
{facts.config.seed}.{table}"""


def _limits(facts: CardFacts) -> str:
    licence = facts.teacher_licence or "see there"
    return f"""## Licences and limits

The rows hold passages of the corpus word for word: the licences of its documents apply to them.
What the teacher wrote falls under the terms of its model (licence: {licence}). Verified quotes
prove that words are in a passage, not that a conclusion from them is right: review a sample before
relying on it (`raftline review export`)."""


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    lines += [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join(lines)
