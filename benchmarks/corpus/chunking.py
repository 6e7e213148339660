"""Chunking: speed and retrieval quality, against semantic-text-splitter.

    python -m benchmarks.corpus.chunking [--spans FOLDER] [--rounds 5] [--size-tokens 160]

The peer is `MarkdownSplitter` with the same tokenizer (all-MiniLM-L6-v2) and the same limit, in
the same process, in turn (A B A B …).

Speed: the repository's Markdown and Python's language reference as one Markdown document, or with
`--spans` its documents; MB of UTF-8 per CPU second, parsing of the outline included. Stability: how
many chunks an inserted sentence changes.

Quality, with `--spans`: FOLDER holds documents and questions whose answers are marked as spans, in
the layout of the public chunking evaluation (corpus.jsonl.gz, qa.jsonl.gz). Chunks of all documents
are ranked by dense similarity; the measure is the share of a question's marked characters that the
first `--budget` tokens of the ranking hold, so larger chunks have no advantage by being larger.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from pipeline_lib.config import BUNDLED_EMBEDDING_MODEL, ChunkConfig
from pipeline_lib.corpus.chunking import Chunker, load_tokenizer
from pipeline_lib.corpus.cleaning import clean_text
from pipeline_lib.corpus.documents import document_id
from pipeline_lib.corpus.media_types import MARKDOWN
from pipeline_lib.corpus.outline import assemble
from pipeline_lib.corpus.parsing.base import ParsedDocument, Segment
from pipeline_lib.corpus.schema import Document
from pipeline_lib.evaluation.statistics import Resampling, compare_means, estimate_mean
from pipeline_lib.models import resolve_model
from pipeline_lib.retrieval.dense import DenseEncoder
from pipeline_lib.settings import load_settings

_NUM_EDITS = 50


@dataclass(frozen=True)
class Passage:
    """A chunk of either splitter."""

    document: str
    start: int
    end: int
    text: str


Splitter = Callable[[str, str], Sequence[Passage]]
"""From a document's name and text to its chunks."""


def make_document(name: str, text: str) -> Document:
    """A Markdown document with its outline; text that is not clean is kept, without outline.

    Marked spans count in the text as it is.
    """
    parsed = ParsedDocument(
        source_uri=name, media_type=MARKDOWN, segments=(Segment(text=text),), is_markdown=True
    )
    assembled = assemble(parsed)
    return Document(
        document_id=document_id(name),
        source_uri=name,
        title=assembled.title,
        media_type=MARKDOWN,
        text=text,
        content_sha256="",
        sections=assembled.sections if assembled.text == text else (),
    )


def ours(tokenizer: Tokenizer, config: ChunkConfig) -> Splitter:
    """Raftline's chunker, the outline included."""
    chunker = Chunker(tokenizer, config)

    def split(name: str, text: str) -> list[Passage]:
        chunks = chunker.chunk(make_document(name, text))
        return [Passage(name, chunk.start, chunk.end, chunk.text) for chunk in chunks]

    return split


def peer(tokenizer: Tokenizer, config: ChunkConfig) -> Splitter:
    """semantic-text-splitter's Markdown splitter."""
    from semantic_text_splitter import MarkdownSplitter

    unbounded = Tokenizer.from_str(tokenizer.to_str())
    unbounded.no_truncation()
    unbounded.no_padding()
    splitter: Any = MarkdownSplitter.from_huggingface_tokenizer(unbounded, config.size_tokens)

    def split(name: str, text: str) -> list[Passage]:
        pieces = splitter.chunk_indices(text)
        return [Passage(name, start, start + len(piece), piece) for start, piece in pieces]

    return split


def measure_speed(
    make: dict[str, Callable[[], Splitter]], texts: dict[str, str], rounds: int
) -> None:
    """Print MB per CPU second; every round begins with a new splitter that remembers nothing."""
    num_bytes = sum(len(text.encode()) for text in texts.values())
    seconds: dict[str, list[float]] = {arm: [] for arm in make}
    for number in range(rounds + 1):
        for arm, build in make.items():
            split = build()
            start = time.process_time()
            for name, text in texts.items():
                split(name, text)
            if number:  # the first round warms up
                seconds[arm].append(time.process_time() - start)
    for arm, times in seconds.items():
        rate = num_bytes / statistics.median(times) / 1e6
        print(f"{arm:22} {rate:6.2f} MB per CPU second, of {num_bytes / 1e6:.2f} MB")
    first, second = seconds.values()
    ratios = [b / a for a, b in zip(first, second, strict=True)]
    print(
        f"ratio                  {statistics.median(ratios):.1f}x "
        f"({min(ratios):.1f} to {max(ratios):.1f} over {len(ratios)} pairs)"
    )


def measure_stability(splitters: dict[str, Splitter], texts: dict[str, str]) -> None:
    """Print how many chunk texts vanish when one sentence is inserted somewhere."""
    for arm, split in splitters.items():
        lost, total = [], 0
        generator = random.Random(42)
        for number in range(_NUM_EDITS):
            name = sorted(texts)[number % len(texts)]
            text = texts[name][:60_000].rstrip()
            position = text.index(" ", generator.randrange(len(text) * 9 // 10))
            edited = f"{text[:position]} a sentence that nobody wrote before.{text[position:]}"
            before = {passage.text for passage in split(name, text)}
            lost.append(len(before - {passage.text for passage in split(name, edited)}))
            total += len(before)
        print(
            f"{arm:22} {statistics.mean(lost):.1f} chunks changed per edit (at most {max(lost)}) "
            f"of {total / _NUM_EDITS:.0f}"
        )


def measure_quality(
    splitters: dict[str, Splitter], texts: dict[str, str], questions: list[Any], budget: int
) -> None:
    """Print the share of marked characters found, per splitter, and the paired difference."""
    model = resolve_model(load_settings(), BUNDLED_EMBEDDING_MODEL)
    encoder = DenseEncoder(model.path, model.identity)
    tokenizer = Tokenizer.from_str(load_tokenizer(model.path).to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    queries = encoder.encode_queries([question["question"] for question in questions])
    shares: dict[str, list[float]] = {}
    for arm, split in splitters.items():
        passages = [passage for name, text in texts.items() for passage in split(name, text)]
        encodings = tokenizer.encode_batch_fast([passage.text for passage in passages])
        sizes = np.array([len(encoding) for encoding in encodings])
        vectors = encoder.encode_documents([passage.text for passage in passages])
        rankings = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")
        shares[arm] = [
            found_share(question, [passages[n] for n in ranking[: within(sizes[ranking], budget)]])
            for question, ranking in zip(questions, rankings, strict=True)
        ]
        value = estimate_mean(shares[arm], Resampling())
        print(
            f"{arm:22} {value.mean:.3f} ({value.low:.3f} to {value.high:.3f}) of the marked "
            f"characters in {budget} tokens; {len(passages)} chunks, {sizes.mean():.0f} tokens each"
        )
    first, second = shares.values()
    result = compare_means(first, second, Resampling())
    print(
        f"difference             {result.difference:+.3f} "
        f"({result.low:+.3f} to {result.high:+.3f}), p = {result.p_value:.4f}"
    )


def within(sizes: Any, budget: int) -> int:
    """How many passages of a ranking come to `budget` tokens; at least one."""
    return max(1, int(np.searchsorted(np.cumsum(sizes), budget, side="right")))


def found_share(question: Any, passages: Sequence[Passage]) -> float:
    """Share of the question's marked characters that the passages hold."""
    (document,) = question["gold_doc_ids"]
    wanted = {n for span in question["spans"] for n in range(span["start"], span["end"])}
    found = {
        n for p in passages if p.document == document for n in range(p.start, p.end) if n in wanted
    }
    return len(found) / len(wanted)


def repository_text() -> str:
    """The repository's Markdown and Python's language reference, as one document."""
    root = Path(__file__).parents[2]
    files = sorted([*root.glob("*.md"), *root.glob("d*/**/*.md"), *root.glob("benchmarks/*.md")])
    pages = [file.read_text(encoding="utf-8") for file in files] + sorted(topics.values())
    return clean_text("\n\n".join(pages))


def read_rows(file: Path) -> list[Any]:
    """The records of a gzipped JSONL file."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spans", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size-tokens", type=int, default=160)
    parser.add_argument("--budget", type=int, default=800)
    arguments = parser.parse_args()
    model = resolve_model(load_settings(), BUNDLED_EMBEDDING_MODEL)
    tokenizer = load_tokenizer(model.path)
    config = ChunkConfig(size_tokens=arguments.size_tokens)
    make: dict[str, Callable[[], Splitter]] = {
        "raftline": lambda: ours(tokenizer, config),
        "semantic-text-splitter": lambda: peer(tokenizer, config),
    }
    texts = {"repository": repository_text()}
    measure_speed(make, texts, arguments.rounds)
    measure_stability({arm: build() for arm, build in make.items()}, texts)
    if arguments.spans:
        rows = read_rows(arguments.spans / "corpus.jsonl.gz")
        texts = {row["_id"]: row["text"] for row in rows}
        questions = read_rows(arguments.spans / "qa.jsonl.gz")
        splitters = {arm: build() for arm, build in make.items()}
        measure_quality(splitters, texts, questions, arguments.budget)


if __name__ == "__main__":
    main()
