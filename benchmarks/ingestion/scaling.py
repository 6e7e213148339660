"""Time and memory from a thousand chunks to a hundred thousand: is growth linear, memory flat?

    python -m benchmarks.ingestion.scaling [--chunks 1000 3000 10000 30000 100000] [--workers 0]

Documents are generated: Markdown, eight sections of 60 words each (a chunk a section), the words
drawn at random from Python's language reference, so that no two are alike. Ingest is the real
stage, with real parser processes, against a local S3 server. Embedding is the real shard path with
its cache in S3, but the model is a stub that answers at once with vectors of its shape (384
float32): with a real one, its speed would be all that the table shows (for that, see
`benchmarks.retrieval.embedding`).

Each step runs in a process of its own, so its peak memory is its own. Printed per size: wall
seconds of a first ingest; of a second after one document was edited; of embedding all chunks; peak
resident memory of the stage's process in each, and of the largest parser process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

NAME = "scaling"
SECTIONS_PER_DOCUMENT = 8
WORDS_PER_SECTION = 60
DIMENSION = 384
_WORD = re.compile(r"[a-z]{2,}")
_COLUMNS = (
    ("chunks", "{num_chunks:>8,}"),
    ("documents", "{num_documents:>9,}"),
    ("text MB", "{megabytes:>7.1f}"),
    ("ingest s", "{ingest[seconds]:>8.1f}"),
    ("chunks/s", "{rate:>8.0f}"),
    ("peak MB", "{ingest[peak]:>7.0f}"),
    ("parser MB", "{ingest[parser_peak]:>9.0f}"),
    ("edit s", "{edit[seconds]:>6.1f}"),
    ("peak MB", "{edit[peak]:>7.0f}"),
    ("embed s", "{embed[seconds]:>7.1f}"),
    ("peak MB", "{embed[peak]:>7.0f}"),
)


class StubEncoder:
    """Vectors of the right shape, at once."""

    identity = "stub"
    document_recipe = "stub"
    dimension = DIMENSION

    def encode_documents(
        self, texts: Sequence[str], on_encoded: Any = None
    ) -> npt.NDArray[np.float32]:
        """One unit vector, again and again."""
        if on_encoded is not None:
            on_encoded(len(texts))
        return np.full((len(texts), DIMENSION), DIMENSION**-0.5, dtype=np.float32)

    def encode_queries(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """As for passages."""
        return self.encode_documents(texts)


def write_documents(folder: Path, num_chunks: int) -> float:
    """About `num_chunks` chunks of Markdown in a hundred folders; returns their megabytes."""
    from pydoc_data.topics import topics

    vocabulary = sorted(set(_WORD.findall(" ".join(topics.values()))))
    rng = random.Random(num_chunks)
    num_bytes = 0
    for number in range(max(1, num_chunks // SECTIONS_PER_DOCUMENT)):
        parts = [f"# Document {number}"]
        for section in range(SECTIONS_PER_DOCUMENT):
            words = rng.choices(vocabulary, k=WORDS_PER_SECTION)
            parts += [f"## Part {section}", " ".join(words) + "."]
        file = folder / f"{number % 100:02}" / f"{number:06}.md"
        file.parent.mkdir(parents=True, exist_ok=True)
        num_bytes += file.write_text("\n\n".join(parts))
    return num_bytes / 1e6


def run_step(step: str, docs: Path, num_workers: int) -> dict[str, Any]:
    """One step of one size, in this process."""
    from pipeline_lib.config import IndexConfig, IngestConfig
    from pipeline_lib.corpus.stage import ingest
    from pipeline_lib.retrieval.stage import embed_shard, plan_embedding
    from pipeline_lib.stage import Workspace

    ws = Workspace.open()
    counts: dict[str, int] = {}
    clock = time.monotonic()
    if step == "embed":
        encoder = StubEncoder()
        corpus = ws.artifacts.resolve(f"corpus/{NAME}@latest")
        plan = plan_embedding(ws, NAME, IndexConfig(), corpus, encoder=encoder)
        for index in range(len(plan.shards)):
            embed_shard(ws, plan, index, encoder=encoder)
    else:
        config = IngestConfig(sources=(str(docs),), num_workers=num_workers)
        counts = ingest(ws, NAME, config).counts
    seconds = time.monotonic() - clock
    peaks = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak, parser_peak = (resource.getrusage(who).ru_maxrss / 1024 for who in peaks)
    return {"seconds": seconds, "peak": peak, "parser_peak": parser_peak, "counts": counts}


def measure(num_chunks: int, num_workers: int, environment: dict[str, str]) -> dict[str, Any]:
    """All steps for one size."""
    with tempfile.TemporaryDirectory() as folder:
        docs = Path(folder, "docs")
        megabytes = write_documents(docs, num_chunks)
        environment |= {"RAFTLINE_HOME": f"{folder}/home", "RAFTLINE_S3_PREFIX": f"n{num_chunks}"}
        row: dict[str, Any] = {"megabytes": megabytes}
        for step in ("ingest", "edit", "embed"):
            if step == "edit":
                edited = next(iter(sorted(docs.rglob("*.md"))))
                edited.write_text(edited.read_text() + "\n\nOne more sentence at its end.\n")
            done = subprocess.run(
                [sys.executable, "-m", __spec__.name, "--step", step, str(docs), str(num_workers)],
                env=os.environ | environment,
                stdout=subprocess.PIPE,
                check=True,
            )
            row[step] = json.loads(done.stdout)
    row |= row["ingest"]["counts"]
    row["rate"] = row["num_chunks"] / row["ingest"]["seconds"]
    return row


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--chunks", type=int, nargs="+", default=[1_000, 3_000, 10_000, 30_000, 100_000]
    )
    parser.add_argument("--workers", type=int, default=0, help="parser processes; 0: one per core")
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        step, docs, num_workers = options.step
        print(json.dumps(run_step(step, Path(docs), int(num_workers))))
        return

    from deployments.stack.s3 import RcloneServer
    from pipeline_lib.settings import load_settings

    cache = load_settings().model_cache
    print("  ".join(title.rjust(_width(shape)) for title, shape in _COLUMNS))
    with tempfile.TemporaryDirectory() as folder, RcloneServer(Path(folder, "s3")) as server:
        environment = {
            "RAFTLINE_MODEL_CACHE": str(cache),
            "RAFTLINE_S3_ENDPOINT_URL": server.endpoint_url,
            "RAFTLINE_S3_ACCESS_KEY_ID": server.access_key_id,
            "RAFTLINE_S3_SECRET_ACCESS_KEY": server.secret_access_key,
            "RAFTLINE_S3_BUCKET": server.bucket,
        }
        for num_chunks in options.chunks:
            row = measure(num_chunks, options.workers, environment)
            print("  ".join(shape.format(**row) for _, shape in _COLUMNS), flush=True)


def _width(shape: str) -> int:
    return int(re.search(r">(\d+)", shape)[1])  # type: ignore[index]


if __name__ == "__main__":
    main()
