"""Which documents train, validate and test: decided before anything is generated.

Documents that are nearly copies of each other form a group, which is placed as one: a question
about a text is no test of a model that was trained on the same text under another name. A group's
place is a hash of the seed and of the smallest id in it, so it stays when other documents come and
go. Two things can move it, and for both there is an answer:

- A group gets a new smallest member, loses it, or joins with another group. What the dataset before
  decided for one of its documents then stands (`known`); where its documents disagree, test wins
  over validation and validation over training, so that no test question is ever trained on.
- A split would be empty. The group closest to it moves there, one without known documents first.

Rows *about* a document belong to its split, and those about two documents need both in one. Which
passages may accompany a row as distractors is the matter of `pipeline_lib.raft.contexts`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.config.synthesis import SplitConfig
from pipeline_lib.corpus.schema import Document
from pipeline_lib.errors import InputError
from pipeline_lib.raft.dataset.groups import group_near_copies
from pipeline_lib.raft.keys import unit_interval
from pipeline_lib.raft.rows import SPLITS, Split

SPLITS_FILE = "splits.parquet"
"""The plan in the dataset artifact: `document_id`, `split`, and `group`, the smallest id in it."""

_SCHEMA = pa.schema([(name, pa.string()) for name in ("document_id", "split", "group")])
_PRECEDENCE: tuple[Split, ...] = ("test", "validation", "train")
_Group = tuple[str, ...]


@dataclass(frozen=True)
class SplitPlan:
    """Where every document belongs."""

    split_of: Mapping[str, Split]
    """Document id to split, in the order of the ids."""
    groups: tuple[_Group, ...]
    """The documents that are nearly copies of each other: groups of two and more, sorted."""
    moved: tuple[str, ...] = ()
    """Known documents that are in another split now; rows about them cannot be taken over."""

    def documents(self, split: Split) -> list[str]:
        """The ids of a split's documents, sorted."""
        return [document for document, place in self.split_of.items() if place == split]

    def write(self, directory: Path) -> None:
        """Write `SPLITS_FILE`, for the dataset that builds on this one."""
        group_of = {document: group[0] for group in self.groups for document in group}
        records = [
            {"document_id": document, "split": split, "group": group_of.get(document, document)}
            for document, split in self.split_of.items()
        ]
        table = pa.Table.from_pylist(records, schema=_SCHEMA)
        pq.write_table(table, directory / SPLITS_FILE, compression="zstd")


def read_splits(directory: Path) -> dict[str, Split]:
    """Document id to split, as `SplitPlan.write` left it."""
    table = pq.read_table(directory / SPLITS_FILE, columns=["document_id", "split"])
    ids, splits = (table.column(name).to_pylist() for name in ("document_id", "split"))
    return dict(zip(ids, splits, strict=True))


def split_documents(
    documents: Iterable[Document],
    config: SplitConfig,
    seed: int,
    known: Mapping[str, Split] | None = None,
    askable: Collection[str] | None = None,
) -> SplitPlan:
    """Every document's split; each of the three has one that can be asked about.

    Needs one pass over the documents, and about 1.5 kB of memory for each.

    Args:
        documents: all.
        config: shares of the splits, and what counts as nearly a copy.
        seed: another seed, another split.
        known: what the dataset before decided, by document id; unknown ids do no harm.
        askable: ids of the documents that can be asked about; `None`: all.

    Raises:
        InputError: fewer than three documents that are not copies of each other can be asked about.
    """
    groups = group_near_copies(
        ((document.document_id, document.text) for document in documents),
        config.near_duplicate_threshold,
    )
    return split_groups(groups, config, seed, known, askable)


def split_groups(
    groups: Iterable[Iterable[str]],
    config: SplitConfig,
    seed: int,
    known: Mapping[str, Split] | None = None,
    askable: Collection[str] | None = None,
) -> SplitPlan:
    """The same for documents whose groups are known; a group has one id or more.

    Raises:
        InputError: fewer than three groups have a document that can be asked about.
    """
    known = known or {}
    ordered = sorted(tuple(sorted(set(group))) for group in groups)
    asked = [
        group for group in ordered if askable is None or any(name in askable for name in group)
    ]
    if len(asked) < len(SPLITS):
        num_documents = sum(map(len, asked))
        copies = f" ({num_documents} with near-copies)" if num_documents > len(asked) else ""
        raise InputError(
            f"{len(asked)} documents can be asked about{copies}, but train, validation and test "
            "need at least one each",
            hint="Add documents, or cut large ones into several: the split is by document, so that "
            "no test question is about a text that was trained on.",
        )
    places = {group: unit_interval(seed, "split", group[0]) for group in ordered}
    bounds = _bounds(config)
    decided = {group: _decide(group, places[group], bounds, known) for group in ordered}
    for split in _PRECEDENCE:
        if split not in {decided[group] for group in asked}:
            _fill(decided, asked, split, places, bounds[split], known)
    split_of = {document: split for group, split in decided.items() for document in group}
    return SplitPlan(
        split_of=dict(sorted(split_of.items())),
        groups=tuple(group for group in ordered if len(group) > 1),
        moved=tuple(sorted(d for d, split in split_of.items() if known.get(d, split) != split)),
    )


def wanted_rows(num_rows: int, config: SplitConfig) -> dict[Split, int]:
    """How many of `num_rows` (at least 3) each split is to get; at least one each."""
    test = min(max(1, round(num_rows * config.test_fraction)), num_rows - 2)
    validation = min(max(1, round(num_rows * config.validation_fraction)), num_rows - test - 1)
    return {"train": num_rows - validation - test, "validation": validation, "test": test}


def _bounds(config: SplitConfig) -> dict[Split, tuple[float, float]]:
    test = config.test_fraction
    not_training = test + config.validation_fraction
    return {"test": (0.0, test), "validation": (test, not_training), "train": (not_training, 1.0)}


def _decide(
    group: _Group,
    place: float,
    bounds: Mapping[Split, tuple[float, float]],
    known: Mapping[str, Split],
) -> Split:
    before = {known[document] for document in group if document in known}
    if before:
        return next(split for split in _PRECEDENCE if split in before)
    return next(split for split in _PRECEDENCE if place < bounds[split][1])


def _fill(
    decided: dict[_Group, Split],
    asked: Sequence[_Group],
    split: Split,
    places: Mapping[_Group, float],
    bounds: tuple[float, float],
    known: Mapping[str, Split],
) -> None:
    """Move the closest group of a split that can spare one."""
    counts = Counter(decided[group] for group in asked)
    spare = [group for group in asked if counts[decided[group]] > 1]
    start, end = bounds

    def rank(group: _Group) -> tuple[bool, float, _Group]:
        is_known = any(document in known for document in group)
        return is_known, max(start - places[group], places[group] - end), group

    decided[min(spare, key=rank)] = split
