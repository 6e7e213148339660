"""Embedding throughput: Raftline's encoder against `SentenceTransformer.encode` with its defaults.

    python -m benchmarks.retrieval.embedding [--chunks 300] [--rounds 5]

Same model (all-MiniLM-L6-v2), same texts (chunks of Python's language reference, mixed lengths),
one process, in turn (A B A B …). Printed: chunks per CPU second (median), the ratio pair by pair,
and the smallest cosine between the two encoders' vectors.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pydoc_data.topics import topics

import numpy as np

from pipeline_lib.config import BUNDLED_EMBEDDING_MODEL
from pipeline_lib.models import resolve_model
from pipeline_lib.retrieval.dense import DenseEncoder
from pipeline_lib.settings import load_settings


def make_texts(count: int) -> list[str]:
    """Paragraphs of the language reference, 20 to 900 characters, in page order."""
    paragraphs = [p.strip() for page in topics.values() for p in page.split("\n\n")]
    texts = [p[:900] for p in paragraphs if len(p) >= 20]
    return texts[:: max(1, len(texts) // count)][:count]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    from sentence_transformers import SentenceTransformer

    texts = make_texts(arguments.chunks)
    model = resolve_model(load_settings(), BUNDLED_EMBEDDING_MODEL)
    ours = DenseEncoder(model.path, model.identity)
    peer = SentenceTransformer(str(model.path), device="cpu")
    arms = {
        "raftline": lambda: ours.encode_documents(texts),
        "sentence-transformers": lambda: peer.encode(texts, show_progress_bar=False),
    }
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    vectors = {}
    for number in range(arguments.rounds + 1):
        for arm, encode in arms.items():
            start = time.process_time()
            vectors[arm] = np.asarray(encode(), dtype=np.float32)
            if number:  # the first round warms up
                seconds[arm].append(time.process_time() - start)
    for arm in arms:
        rate = len(texts) / statistics.median(seconds[arm])
        print(f"{arm:22} {rate:6.1f} chunks per CPU second")
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in vectors.values())
    ratios = [p / o for o, p in zip(*seconds.values(), strict=True)]
    print(
        f"ratio                  {statistics.median(ratios):.2f}x "
        f"({min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} pairs), "
        f"smallest cosine {(a * b).sum(axis=1).min():.5f}"
    )


if __name__ == "__main__":
    main()
