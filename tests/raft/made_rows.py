"""Rows about owls, made by hand, for tests of what is made of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline_lib.raft.rows import (
    SPLITS,
    Passage,
    Provenance,
    Quote,
    RaftRow,
    ReasoningStep,
    split_file,
    write_rows,
)

TEXTS = {
    "owl": "The barn owl hunts mice at night. Its ears sit at different heights, so that it hears "
    "where a mouse is. Owls swallow their prey whole.",
    "kestrel": "The kestrel hovers over fields by day. A kestrel sees the traces of voles in "
    "ultraviolet light.",
    "bat": "Bats hunt moths at night by echo. A bat sleeps with its head down in a cave.",
    "fake": "The barn owl hunts frogs at night. It sits in barns and waits for a long time.",
    "heron": "The heron stands in shallow water for hours. It catches fish with its long bill.",
    "stork": "Storks build nests on roofs. They fly to Africa before the winter comes.",
}
QUOTED = "Its ears sit at different heights, so that it hears where a mouse is."
PROVENANCE = Provenance(
    question_source="teacher",
    answer_source="teacher",
    teacher_model="scripted",
    prompt_version="1",
    seed=7,
)


def passage(name: str, **fields: Any) -> Passage:
    """A distractor; `owl` is the oracle, `fake` was made up, `kestrel` and `bat` are retrieved."""
    given: dict[str, Any] = {"role": "distractor", "origin": "random"}
    if name == "owl":
        given = {"role": "oracle", "origin": "oracle", "rank": 2, "score": 0.5}
    elif name == "fake":
        given = {
            "role": "distractor",
            "origin": "adversarial",
            "source_chunk_id": "owl",
            "change": "mice -> frogs",
        }
    elif name in ("kestrel", "bat"):
        given |= {"origin": "retrieved", "rank": 1 if name == "bat" else 4, "score": 0.7}
    named = {"chunk_id": name, "document_id": f"d-{name}", "title": name.title()}
    return Passage(**named | {"text": TEXTS[name]} | given | fields)


def quote(name: str = "owl", text: str = QUOTED) -> Quote:
    """A span of a passage."""
    start = TEXTS[name].index(text)
    return Quote(chunk_id=name, start=start, end=start + len(text), text=text)


def make_row(*names: str, row_id: str = "r", **changes: Any) -> RaftRow:
    """An `answer` row about owls with these passages, in this order."""
    context = tuple(passage(name) for name in names or ("kestrel", "owl", "heron", "bat"))
    fields: dict[str, Any] = {
        "row_id": row_id,
        "row_key": f"key-{row_id}",
        "split": "train",
        "task": "answer",
        "kind": "factual",
        "style": "plain",
        "question": "How does a barn owl find mice at night?",
        "context": context,
        "oracle_chunk_ids": ("owl",),
        "oracle_document_ids": ("d-owl",),
        "source_document_id": "d-owl",
        "oracle_present": True,
        "target": "answer",
        "reasoning": (ReasoningStep(text="The passage tells about its ears.", quote=quote()),),
        "final_answer": "By hearing",
        "provenance": PROVENANCE,
    }
    return RaftRow(**fields | changes)


def refusing_row(*names: str, **changes: Any) -> RaftRow:
    """The same question, refused because its oracle is missing."""
    fields = {
        "oracle_present": False,
        "target": "refuse",
        "reasoning": (),
        "final_answer": "The documents do not contain the answer.",
    }
    return make_row(*names or ("kestrel", "heron"), **fields | changes)


def drawing(*names: str) -> Callable[[RaftRow], Passage | None]:
    """Draws these passages in turn, those that the row has left out."""

    def one_more(row: RaftRow) -> Passage | None:
        shown = {each.chunk_id for each in row.context}
        return next((passage(name) for name in names if name not in shown), None)

    return one_more


def bare_passage(
    chunk_id: str, text: str, *, title: str = "", role: str = "distractor", **fields: Any
) -> Passage:
    """A passage of its own document, retrieved at random unless it is an oracle."""
    values = {
        "chunk_id": chunk_id,
        "document_id": f"d-{chunk_id}",
        "title": title,
        "text": text,
        "role": role,
        "origin": "oracle" if role == "oracle" else "random",
    }
    return Passage(**(values | fields))


def bare_row(
    question: str,
    *,
    chunk_id: str = "c1",
    document_id: str = "d1",
    title: str = "Otters",
    text: str = "Otters eat crabs.",
    final_answer: str = "crabs",
    quoted: str = "",
    thought: str = "The passage says so.",
    before: Sequence[Passage] = (),
    after: Sequence[Passage] = (),
    **changes: Any,
) -> RaftRow:
    """An `answer` row of one oracle, and of the passages before and after it.

    With `quoted`, which is a part of the oracle's text, the row reasons by this one quote.
    A row that refuses has neither oracle nor reasoning.
    """
    is_there = changes.get("target", "answer") == "answer"
    oracle = bare_passage(chunk_id, text, title=title, role="oracle", document_id=document_id)
    start = text.index(quoted)
    quote = Quote(chunk_id=chunk_id, start=start, end=start + len(quoted), text=quoted)
    reasoning = (ReasoningStep(text=thought, quote=quote),) if quoted and is_there else ()
    fields: dict[str, Any] = {
        "row_id": f"row-{chunk_id}",
        "row_key": "key",
        "split": "train",
        "task": "answer",
        "kind": "factual",
        "style": "plain",
        "question": question,
        "context": (*before, *((oracle,) if is_there else ()), *after),
        "oracle_chunk_ids": (chunk_id,),
        "oracle_document_ids": (document_id,),
        "source_document_id": document_id,
        "oracle_present": is_there,
        "target": "answer",
        "reasoning": reasoning,
        "final_answer": final_answer,
        "provenance": PROVENANCE,
    }
    return RaftRow(**fields | changes)


def write_splits(folder: Path, rows: Iterable[RaftRow]) -> None:
    """A file per split, as a dataset has them; splits without rows have an empty one."""
    rows = list(rows)
    for split in SPLITS:
        write_rows(folder / split_file(split), [row for row in rows if row.split == split])
