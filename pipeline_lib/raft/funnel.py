"""The funnel: what was tried, what was kept at each step, and why the rest was not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FUNNEL_FILE = "funnel.json"
REJECTS_FILE = "rejects.parquet"
REJECT_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("question", "chunk_id", "stage", "reason", "text")]
)


@dataclass(frozen=True, kw_only=True)
class Reject:
    """Something that did not become a row."""

    question: str
    chunk_id: str
    """Empty where no passage was found yet."""
    stage: str
    """The funnel's step."""
    reason: str
    text: str = ""
    """What was generated or found instead."""


class Funnel:
    """Counts per step, in the order in which steps are first named.

    Every candidate that enters a step is either kept or dropped there, so a step's kept and
    dropped add up to what the step before kept.
    """

    def __init__(self, steps: Sequence[str]) -> None:
        self._kept: Counter[str] = Counter(dict.fromkeys(steps, 0))
        self._rejects: list[Reject] = []

    def keep(self, step: str, count: int = 1) -> None:
        """`count` candidates passed a step."""
        self._kept[step] += count

    def drop(self, reject: Reject) -> None:
        """A candidate ended here."""
        self._kept.setdefault(reject.stage, 0)
        self._rejects.append(reject)

    @property
    def dropped(self) -> Counter[str]:
        """Number of rejects by `step.reason`."""
        return Counter(f"{reject.stage}.{reject.reason}" for reject in self._rejects)

    @property
    def num_candidates(self) -> int:
        """What entered the first step."""
        first = next(iter(self._kept))
        return self._kept[first] + sum(self._reasons(first).values())

    def as_json(self, *, num_rows: int) -> dict[str, Any]:
        """The content of `funnel.json`."""
        steps = [
            {"name": step, "kept": kept, "dropped": self._reasons(step)}
            for step, kept in self._kept.items()
        ]
        return {"num_candidates": self.num_candidates, "num_rows": num_rows, "steps": steps}

    def write(self, directory: Path, *, num_rows: int) -> None:
        """Write `funnel.json` and `rejects.parquet`."""
        content = json.dumps(self.as_json(num_rows=num_rows), indent=2, ensure_ascii=False)
        (directory / FUNNEL_FILE).write_text(content + "\n", encoding="utf-8")
        table = pa.Table.from_pylist([asdict(r) for r in self._rejects], schema=REJECT_SCHEMA)
        pq.write_table(table, directory / REJECTS_FILE)

    def __str__(self) -> str:
        """One line per step, for error messages."""
        lines = []
        for step, kept in self._kept.items():
            reasons = ", ".join(
                f"{number} {reason}" for reason, number in self._reasons(step).items()
            )
            lines.append(f"{step}: {kept} kept" + (f"; dropped {reasons}" if reasons else ""))
        return "\n".join(lines)

    def _reasons(self, step: str) -> dict[str, int]:
        """Most frequent first."""
        counts = Counter(reject.reason for reject in self._rejects if reject.stage == step)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
