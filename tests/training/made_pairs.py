"""Preference pairs about owls, and what preference training makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline_lib.config import FinetuneConfig
from pipeline_lib.models import ResolvedModel
from pipeline_lib.progress import NullProgress
from pipeline_lib.raft.derived.preferences import (
    PREFERENCES_FILE,
    PreferencePair,
    PreferenceWriter,
)
from pipeline_lib.training.objectives.base import Prepared, PrepareJob
from pipeline_lib.training.objectives.preferences import Preferences
from tests.raft.made_rows import QUOTED, make_row


def pair(
    number: int, split: str = "train", row: int | None = None, words: int = 0
) -> dict[str, Any]:
    """A pair whose rejected answer cites the wrong passage."""
    made = make_row()
    target = f'The passage tells. <quote doc="2">{QUOTED}</quote>\n<answer>By hearing</answer>'
    return {
        "pair_id": f"pair-{number}",
        "row_id": f"row-{number if row is None else row}",
        "split": split,
        "question": "How does a barn owl find mice at night?" + " please" * words,
        "context": made.context,
        "chosen": target,
        "rejected": target.replace('doc="2"', 'doc="1"'),
        "fault": "misattributed",
    }


def prepared(tmp_path: Path, base: Path, pairs: list[dict[str, Any]], **batch: Any) -> Prepared:
    with PreferenceWriter(tmp_path / PREFERENCES_FILE) as writer:
        for fields in pairs:
            writer.write(PreferencePair.model_validate(fields))
    config = FinetuneConfig.model_validate({"stages": ("dpo",), "batch": batch})
    model = ResolvedModel("tiny", base, "tiny")
    job = PrepareJob(
        config=config,
        dataset=tmp_path,
        base=model,
        run_folder=tmp_path,
        num_ranks=2,
        progress=NullProgress(),
    )
    return Preferences().prepare(job)
