"""Quote verification: time for a million quotes, against folding anew and against fuzzy matching.

    python -m benchmarks.synthesis.quotes [--quotes 1000000] [--peer-quotes 20000]

Rows of five passages (the sample corpus, Python's language reference, in pieces of some 700
characters) with four quotes each, as in synthesis and evaluation: of ten quotes seven are verbatim,
one is from another passage, one is stitched together, one is not there. Peers get the same quotes,
fewer of them:

    folding anew   white space folded in quote and passages for every quote, then `in`; the plain
                   way, which says verbatim or misattributed but not where, nor stitched
    SequenceMatcher  difflib's longest match of quote and cited passage, as alignment tools do it

What the plain way says is compared with ours, quote by quote.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pydoc_data.topics import topics

from pipeline_lib.raft.quotes import verify_quote

_PIECE_CHARS = 700
_PASSAGES = 5
_QUOTES = 4
_KINDS = ("verbatim",) * 7 + ("misattributed", "stitched", "absent")


@dataclass(frozen=True)
class Piece:
    """A passage."""

    chunk_id: str
    text: str


@dataclass(frozen=True)
class Case:
    """A quote to verify."""

    text: str
    cited: int
    passages: Sequence[Piece]


def pieces() -> list[Piece]:
    """The sample corpus, cut between words."""
    text = "\n\n".join(topics[name] for name in sorted(topics))
    cut: list[Piece] = []
    start = 0
    while start < len(text):
        end = text.rfind(" ", start, start + _PIECE_CHARS) + 1 or start + _PIECE_CHARS
        cut.append(Piece(f"piece-{len(cut)}", text[start:end]))
        start = end
    return [piece for piece in cut if len(piece.text.split()) > 40]


def cases(count: int) -> Iterator[Case]:
    """Quotes of rows, in the rows' order."""
    rng, corpus = random.Random(42), pieces()
    for number in range(count):
        if number % _QUOTES == 0:
            oracle = corpus[number // _QUOTES % len(corpus)]
            passages = [oracle, *rng.sample(corpus, _PASSAGES - 1)]
            rng.shuffle(passages)
        cited = passages.index(oracle) + 1
        kind = rng.choice(_KINDS)
        other = cited % _PASSAGES
        yield Case(_quote(kind, oracle, passages[other], rng), cited, passages)


def _quote(kind: str, oracle: Piece, other: Piece, rng: random.Random) -> str:
    words = (other if kind == "misattributed" else oracle).text.split()
    start = rng.randrange(len(words) - 30)
    quoted = words[start : start + rng.randint(6, 24)]
    if kind == "stitched":
        quoted = [*quoted[:5], "…", *other.text.split()[10:20]]
    if kind == "absent":
        quoted[len(quoted) // 2] = "otherwise"
    return " ".join(quoted)


def ours(case: Case) -> str:
    """Raftline's status."""
    return verify_quote(case.text, case.cited, case.passages).status


def folding_anew(case: Case) -> str:
    """The plain way."""
    wanted = " ".join(case.text.split())
    found = [n for n, p in enumerate(case.passages, 1) if wanted in " ".join(p.text.split())]
    if not found:
        return "not there"
    return "verbatim" if case.cited in found else "misattributed"


def longest_match(case: Case) -> str:
    """The way of alignment."""
    text = case.passages[case.cited - 1].text
    match = SequenceMatcher(None, text, case.text, autojunk=False).find_longest_match()
    return "verbatim" if match.size == len(case.text) else "not there"


def measure(verify: Callable[[Case], str], count: int) -> tuple[float, list[str]]:
    """CPU seconds of verifying, and what came out; making the cases does not count."""
    seconds, statuses = 0.0, []
    batch: list[Case] = []
    for case in cases(count):
        batch.append(case)
        if len(batch) == 1000:
            start = time.process_time()
            statuses += map(verify, batch)
            seconds += time.process_time() - start
            batch = []
    start = time.process_time()
    statuses += map(verify, batch)
    return seconds + time.process_time() - start, statuses


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quotes", type=int, default=1_000_000)
    parser.add_argument("--peer-quotes", type=int, default=20_000)
    arguments = parser.parse_args()
    seconds, statuses = measure(ours, arguments.quotes)
    per_quote = seconds / arguments.quotes
    print(f"raftline         {arguments.quotes:,} quotes in {seconds:.1f} CPU seconds")
    print(f"                 {per_quote * 1e6:.1f} µs per quote; {dict(Counter(statuses))}")
    count = min(arguments.quotes, arguments.peer_quotes)
    plain_seconds, plain = measure(folding_anew, count)
    print(f"folding anew     {plain_seconds / count * 1e6:.1f} µs per quote, "
          f"{plain_seconds / count / per_quote:.0f}x")  # fmt: skip
    expected = [s if s in ("verbatim", "misattributed") else "not there" for s in statuses[:count]]
    print(f"                 {sum(map(str.__eq__, plain, expected)):,} of {count:,} say the same")
    few = max(1, count // 100)
    slow_seconds, _ = measure(longest_match, few)
    print(f"SequenceMatcher  {slow_seconds / few * 1e6:.0f} µs per quote, "
          f"{slow_seconds / few / per_quote:.0f}x")  # fmt: skip


if __name__ == "__main__":
    main()
