"""The model card of a tuned retriever."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import TuneRetrieverConfig
from pipeline_lib.evaluation.statistics import Estimate
from pipeline_lib.models import (
    ARTIFACT_MODEL_FOLDER,
    ARTIFACT_PREFIX,
    ResolvedModel,
    licence_of,
)
from pipeline_lib.retriever.measuring import RetrieverEvaluation

CARD_FILE = "README.md"


def write_card(
    target: Path,
    *,
    ref: ArtifactRef,
    base: ResolvedModel,
    inputs: Mapping[str, ArtifactRef],
    config: TuneRetrieverConfig,
    counts: Mapping[str, int],
    evaluation: RetrieverEvaluation,
) -> None:
    """Write the card, in the hub's format (YAML front matter, then Markdown)."""
    licence = licence_of(base.path)
    artifacts = "\n".join(f"| {role} | `{artifact}` |" for role, artifact in inputs.items())
    numbers = "\n".join(
        f"| {name.removeprefix('num_').replace('_', ' ')} | {count:,} |"
        for name, count in counts.items()
    )
    (target / CARD_FILE).write_text(
        f"""---
base_model: {json.dumps(base.name)}
library_name: sentence-transformers
pipeline_tag: sentence-similarity
license: {json.dumps(licence.lower()) if licence else "other"}
tags: [sentence-transformers, retrieval, raftline]
---

# {ref.name}

Embeds questions and passages of one corpus. Fine-tuned from `{base.name}` by Raftline, on questions
about the corpus and the passages that answer them.

| | |
|---|---|
| artifact | `{ref}` |
{artifacts}
{numbers}

## Results

{evaluation.num_questions} questions about {evaluation.num_documents} documents that training never
saw, each looking for its passage among all {evaluation.num_passages:,} of the corpus; means with
{100 * evaluation.confidence:g}% bootstrap intervals.

{_arms_table(evaluation)}

Differences on the same questions:

{_comparisons_table(evaluation)}

## Use

`{ARTIFACT_MODEL_FOLDER}/` loads with `sentence_transformers.SentenceTransformer`; in Raftline, give
`index.embedding_model` as `{ARTIFACT_PREFIX}{ref}`.

## Limits

It was tuned on questions about one corpus and is measured on them only; on other texts it may be
worse than the model that it came from. The licence of that model ({licence or "see there"}) and
that of the corpus apply to this one.

## Configuration

```json
{config.model_dump_json(indent=1)}
```
""",
        encoding="utf-8",
    )


def _arms_table(evaluation: RetrieverEvaluation) -> str:
    names = list(next(iter(evaluation.arms.values())))
    lines = ["| Search | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for arm, estimates in evaluation.arms.items():
        cells = " | ".join(_estimate(estimates[name]) for name in names)
        lines.append(f"| {arm} | {cells} |")
    return "\n".join(lines)


def _comparisons_table(evaluation: RetrieverEvaluation) -> str:
    lines = ["| | Metric | Difference | p |", "|---|---|---|---|"]
    lines += [
        f"| {each.arm} - {each.against} | {each.metric} "
        f"| {each.difference:+.4f} [{each.low:+.4f}, {each.high:+.4f}] | {each.p_value:.4f} |"
        for each in evaluation.comparisons
    ]
    return "\n".join(lines)


def _estimate(estimate: Estimate) -> str:
    return f"{estimate.mean:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"
