"""What a retriever learns from: questions, each with the passage that answers it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline_lib.corpus.schema import CHUNKS_FILE
from pipeline_lib.corpus.schema import read_rows as read_corpus_rows
from pipeline_lib.errors import InputError
from pipeline_lib.raft.quotes import fold
from pipeline_lib.raft.rows import RaftRow, Split, why_no_question

_SHOWN_DOCUMENTS = 3


@dataclass(frozen=True)
class Passages:
    """All chunks of a corpus, by chunk id; their texts are held in memory."""

    chunk_ids: list[str]
    document_ids: list[str]
    texts: list[str]
    places: dict[str, int] = field(init=False)
    """Chunk id to its place in the lists."""

    def __post_init__(self) -> None:
        places = {chunk_id: place for place, chunk_id in enumerate(self.chunk_ids)}
        object.__setattr__(self, "places", places)

    def __len__(self) -> int:
        return len(self.chunk_ids)

    @classmethod
    def load(cls, corpus: Path) -> Passages:
        """Read the chunks of the corpus artifact in a folder."""
        columns = ["chunk_id", "document_id", "text"]
        rows = list(read_corpus_rows(corpus / CHUNKS_FILE, columns))
        rows.sort(key=lambda row: str(row["chunk_id"]))
        return cls(*([row[column] for row in rows] for column in columns))

    def text(self, chunk_id: str) -> str:
        """The text of a chunk of this corpus."""
        return self.texts[self.places[chunk_id]]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A question and the passage that answers it."""

    row_id: str
    question: str
    chunk_id: str
    document_id: str
    answer: str
    """Empty where the row teaches to refuse: then its text says nothing about passages."""
    quotes: tuple[str, ...]
    distractors: tuple[str, ...]
    """Chunk ids of the row's own retrieved distractors, by rank."""


def make_pairs(rows: Iterable[RaftRow], passages: Passages) -> tuple[list[Pair], Counter[str]]:
    """One pair for each question and passage; what was left out is counted by reason.

    A question that needs several passages has no single one to be near to, and each of them would
    be taken for a wrong answer beside the other: it is left out too.
    """
    pairs: list[Pair] = []
    dropped: Counter[str] = Counter()
    seen: set[tuple[str, str]] = set()
    for row in rows:
        key = (fold(row.question).casefold(), row.oracle_chunk_id)
        reason = why_no_question(row)
        if reason is not None:
            dropped[reason] += 1
        elif len(row.oracle_chunk_ids) > 1:
            dropped["several_oracles"] += 1
        elif row.oracle_chunk_id not in passages.places:
            dropped["oracle_not_in_corpus"] += 1
        elif not key[0]:
            dropped["empty_question"] += 1
        elif key in seen:
            dropped["repeated_question"] += 1
        else:
            seen.add(key)
            pairs.append(_pair(row))
    return pairs, dropped


def check_pairs(pairs: Mapping[Split, Sequence[Pair]], dataset: object, min_pairs: int) -> None:
    """Make sure that there is enough to learn from and that nothing held out is learnt.

    Raises:
        InputError: too few training pairs, none to validate or to test with, or a document on both
            sides.
    """
    needed: dict[Split, int] = {"train": min_pairs, "validation": 1, "test": 1}
    for split, least in needed.items():
        if len(pairs[split]) < least:
            raise InputError(
                f"{dataset} has {len(pairs[split])} usable questions in its {split} split, "
                f"{least} are needed to tune a retriever",
                hint="Synthesize more rows (synthesize.num_questions, or your own questions by "
                "qa_path), or lower tune_retriever.min_pairs.",
            )
    held_out = {pair.document_id for split in ("validation", "test") for pair in pairs[split]}
    shared = sorted(held_out & {pair.document_id for pair in pairs["train"]})
    if shared:
        raise InputError(
            f"{len(shared)} documents of {dataset} have questions both to train and to measure "
            f"with, for example {', '.join(shared[:_SHOWN_DOCUMENTS])}",
            hint="Split by document, as the stage synthesize does: else the measurement shows what "
            "was learnt by heart.",
        )


def _pair(row: RaftRow) -> Pair:
    retrieved = [p for p in row.context if p.role == "distractor" and p.origin == "retrieved"]
    retrieved.sort(key=lambda passage: (passage.rank is None, passage.rank, passage.chunk_id))
    return Pair(
        row_id=row.row_id,
        question=row.question,
        chunk_id=row.oracle_chunk_id,
        document_id=row.oracle_document_id,
        answer="" if row.target == "refuse" else row.final_answer,
        quotes=tuple(quote.text for quote in row.quotes),
        distractors=tuple(passage.chunk_id for passage in retrieved),
    )
