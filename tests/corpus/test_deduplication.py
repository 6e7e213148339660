"""Each text once: equal texts, nearly equal ones, and what is merely related."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from pipeline_lib.config.corpus import DeduplicationConfig
from pipeline_lib.corpus.deduplication import (
    NUM_PERMUTATIONS,
    Deduplicator,
    minhash_of,
    rows_per_band,
    shingles,
)
from pipeline_lib.corpus.drops import DropReason
from pipeline_lib.corpus.schema import Document

MakeDocument = Callable[..., Document]
VOCABULARY = [f"word{number}" for number in range(2_000)]


def prose(generator: random.Random, num_words: int = 300) -> str:
    return " ".join(generator.choices(VOCABULARY, k=num_words))


def edited(text: str, generator: random.Random, num_edits: int) -> str:
    words = text.split()
    for position in generator.sample(range(len(words)), num_edits):
        words[position] = "edited"
    return " ".join(words)


def exact_jaccard(one: str, other: str) -> float:
    first, second = ({gram for batch in shingles(text) for gram in batch} for text in (one, other))
    return len(first & second) / len(first | second)


def test_the_first_of_equal_texts_is_kept_and_the_others_name_it(document: MakeDocument) -> None:
    deduplicator = Deduplicator(DeduplicationConfig())
    assert deduplicator.refuse(document("same", source_uri="file:a")) is None
    drop = deduplicator.refuse(document("same", source_uri="file:b"))
    assert drop is not None
    assert (drop.source_uri, drop.reason) == ("file:b", DropReason.DUPLICATE)
    assert drop.detail == "its text equals that of file:a, which was kept"
    assert drop.remedy


def test_another_text_under_a_known_uri_is_refused(document: MakeDocument) -> None:
    deduplicator = Deduplicator(DeduplicationConfig())
    assert deduplicator.refuse(document("one", source_uri="file:a")) is None
    drop = deduplicator.refuse(document("two", source_uri="file:a"))
    assert drop is not None
    assert drop.reason == DropReason.DUPLICATE_URI


def test_slightly_edited_copies_are_found(document: MakeDocument) -> None:
    """Three words of 300 changed: 15 of 296 shingles, a similarity of about 0.9."""
    generator = random.Random(1)
    texts = [prose(generator) for _ in range(100)]
    deduplicator = Deduplicator(DeduplicationConfig(threshold=0.8))
    for number, text in enumerate(texts):
        assert deduplicator.refuse(document(text, source_uri=f"file:{number}")) is None
    for number, text in enumerate(texts):
        copy = document(edited(text, generator, 3), source_uri=f"file:copy-{number}")
        drop = deduplicator.refuse(copy)
        assert drop is not None
        assert drop.reason == DropReason.NEAR_DUPLICATE
        assert drop.detail.startswith(f"its text is nearly that of file:{number}, which was kept")


def test_related_texts_are_kept(document: MakeDocument) -> None:
    """Half of the text shared, word for word: a similarity of a third."""
    generator = random.Random(2)
    shared = prose(generator, 150)
    deduplicator = Deduplicator(DeduplicationConfig(threshold=0.8))
    for number in range(100):
        text = f"{shared} {prose(generator, 150)}"
        assert deduplicator.refuse(document(text, source_uri=f"file:{number}")) is None


def test_case_punctuation_and_layout_do_not_make_a_text_another(document: MakeDocument) -> None:
    deduplicator = Deduplicator(DeduplicationConfig(threshold=1.0))
    text = prose(random.Random(3), 40)
    assert deduplicator.refuse(document(text, source_uri="file:a")) is None
    shouted = document(text.upper().replace(" ", ",\n"), source_uri="file:b")
    drop = deduplicator.refuse(shouted)
    assert drop is not None
    assert drop.detail.endswith("(similarity about 1.00)")


def test_short_texts_are_copies_only_when_they_are_equal(document: MakeDocument) -> None:
    deduplicator = Deduplicator(DeduplicationConfig(threshold=0.1))
    for number, text in enumerate(["How to write C", "How to write C++", "", "how to write c"]):
        assert deduplicator.refuse(document(text, source_uri=f"file:{number}")) is None


def test_scripts_without_spaces_are_compared_by_characters(document: MakeDocument) -> None:
    generator = random.Random(4)
    han = [chr(0x4E00 + generator.randrange(3_000)) for _ in range(400)]
    deduplicator = Deduplicator(DeduplicationConfig())
    assert deduplicator.refuse(document("".join(han), source_uri="file:a")) is None
    changed = "".join([*han[:200], "々", *han[201:]])
    drop = deduplicator.refuse(document(changed, source_uri="file:b"))
    assert drop is not None
    assert drop.reason == DropReason.NEAR_DUPLICATE


def test_near_copies_are_kept_when_that_is_wanted(document: MakeDocument) -> None:
    generator = random.Random(5)
    text = prose(generator)
    deduplicator = Deduplicator(DeduplicationConfig(near_duplicates=False))
    assert deduplicator.refuse(document(text, source_uri="file:a")) is None
    assert deduplicator.refuse(document(edited(text, generator, 1), source_uri="file:b")) is None


@pytest.mark.parametrize("num_edits", [0, 3, 10, 30, 100])
def test_the_estimated_similarity_is_close_to_the_exact_one(num_edits: int) -> None:
    generator = random.Random(num_edits)
    text = prose(generator)
    other = edited(text, generator, num_edits)
    one, two = minhash_of(text), minhash_of(other)
    assert one is not None
    assert two is not None
    estimate = np.mean(np.array(one.digest()) == np.array(two.digest()))
    assert estimate == pytest.approx(exact_jaccard(text, other), abs=0.1)  # three standard errors


def test_answers_depend_on_the_documents_and_their_order_only(document: MakeDocument) -> None:
    def answers() -> list[str | None]:
        generator = random.Random(6)
        deduplicator = Deduplicator(DeduplicationConfig(threshold=0.5))
        texts = [prose(generator, 100) for _ in range(20)]
        texts += [edited(text, generator, 4) for text in texts]
        drops = [
            deduplicator.refuse(document(text, source_uri=f"file:{number}"))
            for number, text in enumerate(texts)
        ]
        return [drop.detail if drop else None for drop in drops]

    assert answers() == answers()


def test_a_long_text_is_shingled_in_stretches_that_join() -> None:
    """A stretch ends within the text of 600,000 characters; hardly a shingle is lost to that."""
    text = prose(random.Random(7), 80_000)
    batches = list(shingles(text))
    assert len(batches) > 1
    assert sum(map(len, batches)) == pytest.approx(80_000 - 4, abs=2 * len(batches))


def test_the_most_similar_of_several_documents_is_named(document: MakeDocument) -> None:
    generator = random.Random(8)
    text = prose(generator)
    deduplicator = Deduplicator(DeduplicationConfig(threshold=0.7))
    far = edited(text, generator, 12)
    near = edited(text, generator, 12)
    assert exact_jaccard(far, near) < 0.6
    assert deduplicator.refuse(document(far, source_uri="file:far")) is None
    assert deduplicator.refuse(document(near, source_uri="file:near")) is None
    drop = deduplicator.refuse(document(edited(near, generator, 1), source_uri="file:copy"))
    assert drop is not None
    assert "that of file:near," in drop.detail


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_bands_find_nearly_every_pair_at_the_threshold(threshold: float) -> None:
    rows = rows_per_band(threshold)
    num_bands = NUM_PERMUTATIONS // rows
    assert rows * num_bands == NUM_PERMUTATIONS
    assert 1 - (1 - threshold**rows) ** num_bands >= 0.98
