"""Contexts of rows: CPU time per row, and what a new document changes.

    python -m benchmarks.synthesis.contexts [--chunks 100000] [--rows 2000]

A made corpus of passages of 115 words, ten to a document; two questions about every seventh
passage, with eleven hits each. Printed for several mixes: CPU milliseconds per row, everything from
the answered question to the validated row included. Then the random picks: the share of rows whose
passages change when one document of ten passages joins, for ours and for the plain way, a shuffle
of the whole corpus with a generator seeded by the row.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import time
from collections.abc import Sequence
from itertools import islice

from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.config.contexts import ContextConfig
from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.raft.candidates import Candidate, Topic, Written, quote_of
from pipeline_lib.raft.contexts.assembly import ContextBuilder
from pipeline_lib.raft.contexts.ring import HashRing
from pipeline_lib.raft.prompts.library import PromptLibrary
from pipeline_lib.raft.rows import ReasoningStep
from pipeline_lib.retrieval.hits import Hit

_WORDS_PER_PASSAGE = 115
_PASSAGES_PER_DOCUMENT = 10
_HITS = 11
_PICKS = 4
_MIXES: dict[str, dict[str, float]] = {
    "retrieved and random": {"retrieved": 1, "random": 1},
    "all that needs no teacher": {
        "retrieved": 1, "random": 1, "same_document": 1, "adversarial": 1,
    },
}  # fmt: skip


def make_chunks(count: int) -> list[Chunk]:
    """Passages of made words, each with a name and a number that can be asked about."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(20_000)]
    chunks = []
    for number in range(count):
        passage = rng.choices(words, k=_WORDS_PER_PASSAGE)
        passage[10:12] = ["Anna", rng.choice(words).capitalize()]
        passage[30] = str(rng.randint(10, 9999))
        text = " ".join(passage) + "."
        chunks.append(
            Chunk(
                chunk_id=f"chunk-{number:08}",
                document_id=f"document-{number // _PASSAGES_PER_DOCUMENT}",
                ordinal=number % _PASSAGES_PER_DOCUMENT,
                start=0,
                end=len(text),
                text=text,
                num_tokens=_WORDS_PER_PASSAGE,
            )
        )
    return chunks


def make_candidate(chunks: Sequence[Chunk], number: int) -> Candidate:
    """A question about the number in a passage, with hits from elsewhere."""
    chunk = chunks[number // 2 * 7 % len(chunks)]
    words = chunk.text.split()
    quote = " ".join(words[28:33])
    start = chunk.text.index(quote)
    step = ReasoningStep(
        text="The passage says so.", quote=quote_of(chunk, start, start + len(quote))
    )
    first = number * 3 % (len(chunks) - _HITS)
    hits = tuple(
        Hit(
            chunk_id=hit.chunk_id,
            document_id=hit.document_id,
            title="T",
            source_uri="file:///x",
            text=hit.text,
            start=hit.start,
            end=hit.end,
            rank=rank,
            score=1 / rank,
        )
        for rank, hit in enumerate(chunks[first : first + _HITS], start=1)
    )
    return Candidate(
        topic=Topic(split="train", chunks=(chunk,)),
        question=f"What is number {number}?",
        hits=hits,
        written=Written((step,), words[30]),
    )


def time_rows(chunks: Sequence[Chunk], num_rows: int, mix: dict[str, float], shared: int) -> float:
    """CPU milliseconds per row."""
    builder = ContextBuilder(
        chunks,
        {chunk.document_id: "Title" for chunk in chunks},
        SynthesizeConfig(
            contexts=ContextConfig(num_distractors=4, distractors=mix, questions_per_context=shared)
        ),
        teacher=None,
        prompts=PromptLibrary.load(),
        prompt_version="1",
        teacher_model="none",
    )
    candidates = [make_candidate(chunks, number) for number in range(num_rows)]
    start = time.process_time()
    rows = builder.build(candidates)
    seconds = time.process_time() - start
    assert len(rows) == num_rows
    return 1000 * seconds / num_rows


def changed_share(
    before: Sequence[str], after: Sequence[str], num_rows: int
) -> tuple[float, float]:
    """Shares of rows with other random picks: ours, and those of a shuffle."""
    rings = HashRing(before, 1), HashRing(after, 1)
    ours = plain = 0
    for row in map(str, range(num_rows)):
        first, second = (list(islice(ring.walk(row), _PICKS)) for ring in rings)
        ours += first != second
        shuffled = [random.Random(row).sample(names, len(names)) for names in (before, after)]
        plain += shuffled[0][:_PICKS] != shuffled[1][:_PICKS]
    return ours / num_rows, plain / num_rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=2000)
    args = parser.parse_args()
    chunks = make_chunks(args.chunks)
    print(f"{args.chunks} passages, {args.rows} rows of five passages")
    for name, mix in _MIXES.items():
        for shared in (1, 4):
            per_row = time_rows(chunks, args.rows, mix, shared)
            print(f"{name}, {shared} per context: {per_row:.2f} ms of CPU per row")
    joined = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(2000)]
    names = sorted(joined[_PASSAGES_PER_DOCUMENT:])
    joined.sort()
    ours, plain = changed_share(names, joined, 300)
    print(
        f"a document joins {len(names)} passages: {ours:.1%} of rows change, shuffled {plain:.1%}"
    )


if __name__ == "__main__":
    main()
