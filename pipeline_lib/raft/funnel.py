"""The funnel: what was tried, what was kept at each step, and why the rest was not.

A run may try a million candidates, so nothing of them is kept in memory but numbers, one batch of
rejects on its way to the file, and a few samples of every reason. Samples are the rejects whose
hash is smallest: the same ones whatever the order in which they came.
"""

from __future__ import annotations

import hashlib
import json
from bisect import insort
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from pipeline_lib.corpus.writing import ParquetWriter
from pipeline_lib.generation.structured import well_formed
from pipeline_lib.raft.candidates import Candidate, Rejection

FUNNEL_FILE = "funnel.json"
REJECTS_FILE = "rejects.parquet"
SAMPLES_FILE = "reject_samples.json"
REJECT_SCHEMA = pa.schema(
    [
        (name, pa.string())
        for name in ("question", "chunk_id", "document_id", "kind", "stage", "reason", "text")
    ]
)

_BATCH_REJECTS = 4096
_BATCH_CHARS = 8_000_000
"""A batch is written when it has so many rejects, or so much text."""
_NUM_SAMPLES = 8
"""Kept of every reason."""
_SAMPLE_CHARS = 600
"""Of a sample's question and of its text; the file of rejects has them whole."""


@dataclass(frozen=True, kw_only=True)
class Reject:
    """Something that did not become a row."""

    stage: str
    """The funnel's step."""
    reason: str
    question: str = ""
    chunk_id: str = ""
    """The (first) passage it was about; empty where none was found yet."""
    document_id: str = ""
    """That passage's document."""
    kind: str = ""
    text: str = ""
    """What was generated or found instead."""

    @classmethod
    def of(cls, candidate: Candidate, rejection: Rejection) -> Self:
        """The reject that a candidate has become; a user's question says where it stands."""
        chunk = candidate.topic.chunks[0] if candidate.topic.chunks else None
        said = [part for part in (candidate.origin, rejection.text) if part]
        return cls(
            stage=rejection.step,
            reason=rejection.reason,
            question=candidate.question,
            chunk_id=chunk.chunk_id if chunk else "",
            document_id=chunk.document_id if chunk else "",
            kind=candidate.topic.kind,
            text=": ".join(said),
        )


@dataclass(frozen=True, kw_only=True)
class RejectSample:
    """One of the rejects with a reason, to be looked at."""

    stage: str
    reason: str
    num_rejects: int
    """How many have this reason."""
    question: str
    chunk_id: str
    document_id: str
    kind: str
    text: str
    """Cut where it is long."""


class Funnel:
    """Counts per step, in the order in which steps are first named; a context manager.

    Every candidate that enters a step is either kept or dropped there, so a step's kept and
    dropped add up to what the step before kept.

    Args:
        steps: names of the steps, in order; further ones may be named on the way.
        directory: where rejects are written while they come in; `None` keeps none but samples.
    """

    def __init__(self, steps: Sequence[str] = (), directory: Path | None = None) -> None:
        self._kept: Counter[str] = Counter(dict.fromkeys(steps, 0))
        self._dropped: dict[str, Counter[str]] = {}
        self._samples: dict[tuple[str, str], list[_Keyed]] = {}
        self._reports: dict[str, Mapping[str, Any]] = {}
        self._directory = directory
        self._file: ParquetWriter[Reject] | None = None
        if directory is not None:
            self._file = ParquetWriter(
                directory / REJECTS_FILE,
                REJECT_SCHEMA,
                max_rows=_BATCH_REJECTS,
                max_chars=_BATCH_CHARS,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def keep(self, step: str, count: int = 1) -> None:
        """`count` candidates passed a step."""
        self._kept[step] += count

    def drop(self, reject: Reject) -> None:
        """A candidate ended here."""
        reject = _changed_texts(reject, well_formed)
        self._kept.setdefault(reject.stage, 0)
        self._dropped.setdefault(reject.stage, Counter())[reject.reason] += 1
        self._consider(reject)
        if self._file is not None:
            self._file.write(reject)

    def report(self, step: str, content: Mapping[str, Any]) -> None:
        """What a gate says of itself, for `funnel.json`; the last word on a step counts."""
        self._reports[step] = dict(content)

    @property
    def dropped(self) -> Counter[str]:
        """Number of rejects by `step.reason`."""
        return Counter(
            {
                f"{step}.{reason}": number
                for step, reasons in self._dropped.items()
                for reason, number in reasons.items()
            }
        )

    @property
    def num_candidates(self) -> int:
        """What entered the first step."""
        first = next(iter(self._kept), None)
        return 0 if first is None else self._kept[first] + sum(self._reasons(first).values())

    def samples(self) -> list[RejectSample]:
        """A few rejects of every reason: by step, then the most frequent reason first."""
        return [
            RejectSample(**{**asdict(keyed.reject), "num_rejects": number})
            for step in self._kept
            for reason, number in self._reasons(step).items()
            for keyed in self._samples[step, reason]
        ]

    def as_json(self, *, num_rows: int) -> dict[str, Any]:
        """The content of `funnel.json`."""
        steps = [
            {"name": step, "kept": kept, "dropped": self._reasons(step)}
            for step, kept in self._kept.items()
        ]
        content = {"num_candidates": self.num_candidates, "num_rows": num_rows, "steps": steps}
        return content | ({"gates": self._reports} if self._reports else {})

    def write(self, *, num_rows: int) -> None:
        """Finish `rejects.parquet`, and write `funnel.json` and `reject_samples.json`."""
        if self._directory is None or self._file is None:
            raise ValueError("a funnel without a directory writes no files")
        self._file.close()
        samples = [asdict(sample) for sample in self.samples()]
        _write_json(self._directory / FUNNEL_FILE, self.as_json(num_rows=num_rows))
        _write_json(self._directory / SAMPLES_FILE, samples)

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
        counts = self._dropped.get(step, Counter())
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def _consider(self, reject: Reject) -> None:
        """Keep the reject as a sample if its hash is among the smallest of its reason."""
        samples = self._samples.setdefault((reject.stage, reject.reason), [])
        identity = f"{reject.chunk_id}\0{reject.question}\0{reject.text}"
        key = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).digest()
        is_full = len(samples) == _NUM_SAMPLES
        if (is_full and key >= samples[-1].key) or any(key == sample.key for sample in samples):
            return
        insort(samples, _Keyed(key, _changed_texts(reject, _shortened)))
        del samples[_NUM_SAMPLES:]


def read_samples(path: Path) -> list[RejectSample]:
    """The samples that a funnel wrote as `reject_samples.json`."""
    return [RejectSample(**record) for record in json.loads(path.read_text(encoding="utf-8"))]


@dataclass(frozen=True, order=True)
class _Keyed:
    """A sample in the order of hashes."""

    key: bytes
    reject: Reject = field(compare=False)


def _changed_texts(reject: Reject, change: Callable[[str], str]) -> Reject:
    """A reject with something done to what people and models wrote in it."""
    question, text = change(reject.question), change(reject.text)
    is_same = (question, text) == (reject.question, reject.text)
    return reject if is_same else replace(reject, question=question, text=text)


def _shortened(text: str) -> str:
    return text if len(text) <= _SAMPLE_CHARS else text[:_SAMPLE_CHARS] + "…"


def _write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
