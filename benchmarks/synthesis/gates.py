"""A million candidates through the gates that ask no teacher: CPU time of each, and memory.

    python -m benchmarks.synthesis.gates [--candidates 1000000] [--all]

Candidates are made as they are needed, in rounds of 2,048: passages of Python's language reference,
questions of words that are as unevenly frequent as those of a language (Zipf), one in ten nearly as
asked before, some too long, some about something else; answers with two quotes, of which a few are
false. All of them take all steps to the funnel, which writes rejects to a file as in a run. With
`--all` language, personal data and toxicity are looked at too.

Each tenth of the run prints what a candidate takes so far and the memory that the process has come
to; making the candidates is not counted.
"""

from __future__ import annotations

import argparse
import random
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.synthesis.quotes import pieces
from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.raft.candidates import Candidate, Gate, Rejection, Topic, Written, quote_of
from pipeline_lib.raft.funnel import Funnel
from pipeline_lib.raft.gates.build import (
    answer_gates,
    question_gates,
    round_trip_gates,
    run_gates,
    steps_of,
)
from pipeline_lib.raft.prompts.library import PromptLibrary
from pipeline_lib.raft.rows import ReasoningStep
from pipeline_lib.retrieval.search import Hit

_ROUND = 2048
_VOCABULARY = 200_000
_ZIPF = 1.25
_HITS = 6


def chunks() -> list[Chunk]:
    """The passages."""
    return [
        Chunk(
            chunk_id=piece.chunk_id,
            document_id=f"document-{number // 10}",
            ordinal=number % 10,
            start=0,
            end=len(piece.text),
            text=piece.text,
            num_tokens=0,
        )
        for number, piece in enumerate(pieces())
    ]


def hits_of(passages: Sequence[Chunk]) -> list[Hit]:
    """The passages as retrieval finds them."""
    return [
        Hit(
            chunk_id=chunk.chunk_id,
            document_id=chunk.document_id,
            title="",
            source_uri="",
            text=chunk.text,
            start=0,
            end=0,
            rank=1,
            score=1.0,
        )
        for chunk in passages
    ]


def spelled(number: int) -> str:
    """A made-up word of letters for a rank in the vocabulary."""
    letters = ""
    while number or not letters:
        number, digit = divmod(number, 20)
        letters += "bcdfghjklmnpqrtvwxyz"[digit] + "aeiou"[digit % 5]
    return letters


def candidates(count: int) -> Iterator[Candidate]:
    """Answered candidates; run through the question gates first."""
    rng, draws = random.Random(42), np.random.default_rng(42)
    corpus = chunks()
    found = hits_of(corpus)
    words: list[str] = []
    for number in range(count):
        if number % _ROUND == 0:
            ranks = draws.zipf(_ZIPF, size=_ROUND * 9) % _VOCABULARY
            drawn = iter([spelled(rank) for rank in ranks.tolist()])
        if number % 10 == 9:
            rng.shuffle(words)
        else:
            words = list(islice(drawn, 5 + number % 5))
        place = rng.randrange(len(corpus))
        others = rng.sample(found, _HITS - 1)
        hits = others if number % 7 == 6 else [*others[:2], found[place], *others[2:]]
        mark = "." if number % 50 == 49 else "?"
        yield Candidate(
            topic=Topic(split="train", chunks=(corpus[place],)),
            question=f"What does the {' '.join(words)} do{mark}",
            hits=tuple(hits),
            written=_written(corpus[place], number, rng),
        )


def _written(chunk: Chunk, number: int, rng: random.Random) -> Written:
    steps = []
    for part in range(2):
        start = rng.randrange(len(chunk.text) - 100)
        quote = quote_of(chunk, start, start + rng.randint(25, 90))
        if number % 20 == 13:
            quote = quote.model_copy(update={"text": quote.text[::-1]})
        text = f"Step {part} of {number} says what the words mean."
        steps.append(ReasoningStep.model_construct(text=text, quote=quote))
    return Written(tuple(steps), chunk.text[start : start + 40])


class Timed:
    """A gate with a watch."""

    def __init__(self, gate: Gate) -> None:
        self.step = gate.step
        self.name = type(gate).__name__
        self.seconds = 0.0
        self.num_seen = 0
        self._gate = gate

    def check(self, seen: Sequence[Candidate]) -> list[Rejection | None]:
        """As the gate does."""
        start = time.process_time()
        results = self._gate.check(seen)
        self.seconds += time.process_time() - start
        self.num_seen += len(seen)
        return results


def memory_mb() -> float:
    """The most memory that the process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=1_000_000)
    parser.add_argument("--all", action="store_true")
    arguments = parser.parse_args()
    extra = {"languages": ["en"], "personal_data": True, "toxicity": True} if arguments.all else {}
    config = SynthesizeConfig.model_validate({"gates": extra})
    no_teacher: Any = None
    asking = [Timed(g) for g in question_gates(config) + round_trip_gates(config)]
    answering = [Timed(g) for g in answer_gates(config, no_teacher, PromptLibrary.load(), {})]
    made = candidates(arguments.candidates)
    print(f"{memory_mb():.0f} MB before the first candidate")
    seconds, done, marks = 0.0, 0, 1
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        with Funnel(steps_of([*asking, *answering]), directory) as funnel:
            while answered := list(islice(made, _ROUND)):
                start = time.process_time()
                asked = [replace(candidate, written=None) for candidate in answered]
                written = {id(new): old for new, old in zip(asked, answered, strict=True)}
                left = run_gates(asking, asked, funnel)
                run_gates(answering, [written[id(candidate)] for candidate in left], funnel)
                seconds += time.process_time() - start
                done += len(answered)
                if done * 10 >= marks * arguments.candidates:
                    marks = done * 10 // arguments.candidates + 1
                    print(f"{done:>9,} candidates  {seconds / done * 1e6:6.0f} µs each  "
                          f"{memory_mb():5.0f} MB")  # fmt: skip
            funnel.write(num_rows=0)
        size = (directory / "rejects.parquet").stat().st_size
    for gate in [*asking, *answering]:
        each = gate.seconds / max(1, gate.num_seen) * 1e6
        print(f"{gate.step:>12} {gate.name:16} {each:6.1f} µs of {gate.num_seen:,} candidates")
    print(f"{funnel}\n{sum(funnel.dropped.values()):,} rejects in {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
