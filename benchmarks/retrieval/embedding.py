"""Embedding throughput: Raftline's encoder against `SentenceTransformer.encode` with its defaults.

    python -m benchmarks.retrieval.embedding [--chunks 300] [--rounds 5] [--int8]

Same model (all-MiniLM-L6-v2), same texts (chunks of Python's language reference, mixed lengths),
one process, in turn (A B A B …). Printed: chunks per CPU second (median), the ratio pair by pair,
and the smallest cosine between the two encoders' vectors. With `--int8` also what torch's dynamic
quantization of the linear layers does to speed and vectors, which is why Raftline does not offer
it.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np

from pipeline_lib.config import BUNDLED_EMBEDDING_MODEL
from pipeline_lib.models import resolve_model
from pipeline_lib.retrieval.dense import DenseEncoder
from pipeline_lib.retrieval.dense_model import smallest_cosine
from pipeline_lib.settings import load_settings

PEER = "sentence-transformers"


def make_texts(count: int) -> list[str]:
    """Paragraphs of the language reference, 20 to 900 characters, in page order."""
    paragraphs = [p.strip() for page in topics.values() for p in page.split("\n\n")]
    texts = [p[:900] for p in paragraphs if len(p) >= 20]
    return texts[:: max(1, len(texts) // count)][:count]


def make_arms(path: Path, identity: str, *, with_int8: bool) -> dict[str, Callable[..., Any]]:
    """Name to a function that embeds texts; the peer first."""
    from sentence_transformers import SentenceTransformer

    ours = DenseEncoder(path, identity)
    peer = SentenceTransformer(str(path), device="cpu")
    arms: dict[str, Callable[..., Any]] = {
        PEER: lambda texts: peer.encode(texts, show_progress_bar=False),
        "raftline": ours.encode_documents,
    }
    if with_int8:
        arms["int8"] = _quantized(path)
    print(f"raftline computes in {ours.document_recipe}")
    return arms


def _quantized(path: Path) -> Callable[..., Any]:
    import torch
    from sentence_transformers import SentenceTransformer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = torch.ao.quantization.quantize_dynamic(
            SentenceTransformer(str(path), device="cpu"), {torch.nn.Linear}, dtype=torch.qint8
        )
    return lambda texts: model.encode(texts, show_progress_bar=False)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--int8", action="store_true")
    arguments = parser.parse_args()

    texts = make_texts(arguments.chunks)
    model = resolve_model(load_settings(), BUNDLED_EMBEDDING_MODEL)
    arms = make_arms(model.path, model.identity, with_int8=arguments.int8)
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    vectors = {}
    for number in range(arguments.rounds + 1):
        for arm, encode in arms.items():
            start = time.process_time()
            vectors[arm] = np.asarray(encode(texts), dtype=np.float32)
            if number:  # the first round warms up
                seconds[arm].append(time.process_time() - start)
    for arm in arms:
        rate = len(texts) / statistics.median(seconds[arm])
        ratios = [p / o for o, p in zip(seconds[arm], seconds[PEER], strict=True)]
        cosine = smallest_cosine(vectors[PEER], vectors[arm])
        print(
            f"{arm:22} {rate:6.1f} chunks per CPU second, {statistics.median(ratios):.2f}x "
            f"({min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} pairs), "
            f"smallest cosine {cosine:.5f}"
        )


if __name__ == "__main__":
    main()
