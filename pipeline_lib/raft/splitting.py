"""Which documents train, validate and test: decided before anything is generated.

A document's place is a hash of the seed and its id, so it stays when other documents come and go:
what was a test document is never trained on in a later run of the same pipeline. Only when a
split would be empty does the document closest to it move there.

Rows *about* a document belong to its split. Passages that only accompany a row as distractors may
come from any document: retrieval in service searches the whole corpus, so contexts in training
must look like that too, and a distractor's text is never a target of training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from pipeline_lib.errors import InputError
from pipeline_lib.raft.rows import SPLITS, Split


def split_documents(
    document_ids: Iterable[str], *, validation_fraction: float, test_fraction: float, seed: int
) -> dict[str, Split]:
    """Every document's split; none of the three is empty.

    Args:
        document_ids: the documents that can be asked about.
        validation_fraction: expected share of documents for validation.
        test_fraction: expected share of documents for testing.
        seed: another seed, another split.

    Raises:
        InputError: there are fewer than three documents.
    """
    places = {document: _place(document, seed) for document in sorted(set(document_ids))}
    if len(places) < len(SPLITS):
        raise InputError(
            f"{len(places)} documents can be asked about, but train, validation and test need at "
            "least one each",
            hint="Add documents, or cut large ones into several: the split is by document, so that "
            "no test question is about a text that was trained on.",
        )
    bounds: dict[Split, tuple[float, float]] = {
        "test": (0.0, test_fraction),
        "validation": (test_fraction, test_fraction + validation_fraction),
        "train": (test_fraction + validation_fraction, 1.0),
    }
    result = {
        document: next(split for split, (_, end) in bounds.items() if place < end)
        for document, place in places.items()
    }
    for split in SPLITS:
        if split not in result.values():
            _fill(result, split, places, bounds[split])
    return result


def wanted_rows(
    num_rows: int, *, validation_fraction: float, test_fraction: float
) -> dict[Split, int]:
    """How many of `num_rows` (at least 3) each split is to get; at least one each."""
    test = min(max(1, round(num_rows * test_fraction)), num_rows - 2)
    validation = min(max(1, round(num_rows * validation_fraction)), num_rows - test - 1)
    return {"train": num_rows - validation - test, "validation": validation, "test": test}


def _place(document_id: str, seed: int) -> float:
    """Uniform in [0, 1)."""
    digest = hashlib.sha256(f"{seed}\0{document_id}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _fill(
    result: dict[str, Split],
    split: Split,
    places: dict[str, float],
    bounds: tuple[float, float],
) -> None:
    """Move the closest document of a split that can spare one."""
    counts = {name: list(result.values()).count(name) for name in SPLITS}
    spare = [document for document in result if counts[result[document]] > 1]
    start, end = bounds
    closest = min(spare, key=lambda d: (max(start - places[d], places[d] - end), d))
    result[closest] = split
