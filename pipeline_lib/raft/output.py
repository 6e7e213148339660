"""The files of a dataset while it is being made: rows, derived rows, pairs, lineage, topics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.corpus.schema import Document
from pipeline_lib.raft.candidates import Topic
from pipeline_lib.raft.dataset.lineage import LineageWriter
from pipeline_lib.raft.derived.preferences import PREFERENCES_FILE, PreferenceWriter, make_pair
from pipeline_lib.raft.derived.pretraining import (
    PRETRAINING_FILE,
    iter_pretraining,
    write_pretraining,
)
from pipeline_lib.raft.derived.tasks import OneMore, derive_task_rows
from pipeline_lib.raft.keys import topic_key
from pipeline_lib.raft.rows import SPLITS, RaftRow, RowWriter, Split, split_file
from pipeline_lib.raft.statistics import DatasetStatistics

TOPICS_FILE = "topics.parquet"
TOPIC_SCHEMA = pa.schema([("topic_key", pa.string()), ("chunk_ids", pa.list_(pa.string()))])


@dataclass
class AskedTopics:
    """What was asked about, in this dataset or one that it took rows from."""

    _chunk_ids: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __contains__(self, topic: Topic) -> bool:
        return topic_key(topic) in self._chunk_ids

    def add(self, topics: Iterable[Topic]) -> None:
        """These were asked about."""
        for topic in topics:
            self._chunk_ids[topic_key(topic)] = tuple(chunk.chunk_id for chunk in topic.chunks)

    def update(self, other: AskedTopics) -> None:
        """So were those of another dataset."""
        self._chunk_ids |= other._chunk_ids

    def about(self, chunk_ids: Collection[str]) -> AskedTopics:
        """Only the topics about these passages and no others."""
        kept = {
            key: ids for key, ids in self._chunk_ids.items() if all(i in chunk_ids for i in ids)
        }
        return AskedTopics(kept)

    def write(self, directory: Path) -> None:
        """Write `TOPICS_FILE`, for the dataset that builds on this one."""
        records = [{"topic_key": key, "chunk_ids": list(ids)} for key, ids in sorted(self._items())]
        table = pa.Table.from_pylist(records, schema=TOPIC_SCHEMA)
        pq.write_table(table, directory / TOPICS_FILE, compression="zstd")

    @classmethod
    def read(cls, directory: Path) -> AskedTopics:
        """What `write` wrote."""
        columns: Mapping[str, list[object]] = pq.read_table(directory / TOPICS_FILE).to_pydict()
        pairs = zip(columns["topic_key"], columns["chunk_ids"], strict=True)
        return cls({str(key): tuple(ids) for key, ids in pairs})  # type: ignore[arg-type]

    def _items(self) -> Iterable[tuple[str, tuple[str, ...]]]:
        return self._chunk_ids.items()


class DatasetFiles:
    """Writes a dataset's rows as they are made; a context manager.

    Args:
        directory: where.
        config: which derived rows and pairs are made of a row.
        documents: of the corpus.
        one_more: draws one more distractor for a row (refusals need it).
    """

    def __init__(
        self,
        directory: Path,
        config: SynthesizeConfig,
        documents: Iterable[Document],
        one_more: OneMore,
    ) -> None:
        self._directory = directory
        self._config = config
        self._one_more = one_more
        self._opened = ExitStack()
        enter = self._opened.enter_context
        self._writers: dict[Split, RowWriter] = {
            split: enter(RowWriter(directory / split_file(split))) for split in SPLITS
        }
        self._pairs = enter(PreferenceWriter(directory / PREFERENCES_FILE))
        self._lineage = enter(LineageWriter(directory, documents))
        self.topics = AskedTopics()
        self.statistics = DatasetStatistics()
        self.by_split: Counter[str] = Counter()
        """RAFT rows by split."""
        self.by_task: Counter[str] = Counter()
        """All rows by task."""
        self.num_pairs = 0
        self.num_texts = 0
        self.num_oracle_absent = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()
        self.topics.write(self._directory)

    @property
    def num_rows(self) -> int:
        """RAFT rows, derived ones not counted."""
        return self.by_split.total()

    def add(self, row: RaftRow) -> None:
        """Write a RAFT row, and what is derived from it.

        Test rows have nothing beside them: they are measured on, not learnt from.
        """
        self._write(row)
        self.by_split[row.split] += 1
        self.num_oracle_absent += not row.oracle_present
        if row.split == "test":
            return
        config, seed = self._config, self._config.seed
        for derived in derive_task_rows(row, config.tasks, seed=seed, one_more=self._one_more):
            self._write(derived)
        pair = make_pair(row, config.preferences, seed=seed, one_more=self._one_more)
        if pair is not None:
            self._pairs.write(pair)
            self.num_pairs += 1

    def add_texts(self, documents: Sequence[Document], split_of: Mapping[str, Split]) -> None:
        """Write the plain text of the training documents."""
        path = self._directory / PRETRAINING_FILE
        self.num_texts = write_pretraining(path, documents, split_of)
        for text in iter_pretraining(path):
            self._lineage.write_text(text.document_id)

    def _write(self, row: RaftRow) -> None:
        self._writers[row.split].write(row)
        self._lineage.write(row)
        self.statistics.add(row)
        self.by_task[row.task] += 1
