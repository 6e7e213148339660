"""A dataset from questions and answers that somebody brought, by the bundled small teacher.

    python -m benchmarks.synthesis.brought_pairs FOLDER [--questions N]

The folder holds `corpus.jsonl` ({_id, title, text}) and `qa.jsonl` ({question, answer,
gold_doc_ids}), each also .gz. Documents are ingested, cut, embedded and indexed as in a pipeline;
every pair looks for the passages of its document that support its answer, and the teacher writes
the reasoning towards it. Printed are rows by split, what was dropped and why, tokens and time, and
of all quotes, read back from the published files, how many are verbatim in the passage they cite.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deployments.stack.s3 import RcloneServer
from pipeline_lib.config import IndexConfig, IngestConfig, SynthesizeConfig
from pipeline_lib.corpus.stage import ingest
from pipeline_lib.progress import NullProgress
from pipeline_lib.raft.quotes import verify_quote
from pipeline_lib.raft.rows import SPLITS, RaftRow, iter_rows, split_file
from pipeline_lib.raft.stage import synthesize
from pipeline_lib.retrieval.stage import build_index
from pipeline_lib.settings import Settings
from pipeline_lib.stage import StageResult, Workspace

_NAME = "benchmark"


class Notes(NullProgress):
    """Says now and then how far it is."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def note(self, text: str) -> None:
        """Print a note every half minute."""
        if time.monotonic() - self._said > 30:
            self._said = time.monotonic()
            print(f"  {text}", flush=True)


def lines(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file, packed or not."""
    plain = folder / name
    if plain.is_file():
        with plain.open(encoding="utf-8") as stream:
            yield from map(json.loads, stream)
    else:
        with gzip.open(folder / f"{name}.gz", "rt", encoding="utf-8") as stream:
            yield from map(json.loads, stream)


def write_inputs(folder: Path, target: Path) -> tuple[Path, Path]:
    """The set as a source of documents, and as a file of pairs."""
    documents, pairs = target / "documents.jsonl", target / "pairs.jsonl"
    with documents.open("w", encoding="utf-8") as stream:
        for line in lines(folder, "corpus.jsonl"):
            record = {"id": line["_id"], "title": line["title"], "text": line["text"]}
            stream.write(json.dumps(record) + "\n")
    with pairs.open("w", encoding="utf-8") as stream:
        for line in lines(folder, "qa.jsonl"):
            record = {
                "question": line["question"],
                "answer": line["answer"],
                "document_id": line["gold_doc_ids"][0],
            }
            stream.write(json.dumps(record) + "\n")
    return documents, pairs


def quote_statuses(rows: Iterator[RaftRow]) -> Counter[str]:
    """Statuses of all quotes, each looked up anew in the passage that its row cites."""
    found: Counter[str] = Counter()
    for row in rows:
        numbers = {passage.chunk_id: n for n, passage in enumerate(row.context, start=1)}
        for quote in row.quotes:
            found[verify_quote(quote.text, numbers[quote.chunk_id], row.context).status] += 1
    return found


def report(ws: Workspace, result: StageResult, seconds: float, cpu: float) -> None:
    """Print what came of it."""
    manifest = ws.artifacts.manifest(result.ref)
    folder = ws.artifacts.directory(result.ref)
    rows = [row for split in SPLITS for row in iter_rows(folder / split_file(split))]
    print(", ".join(f"{name} {count:,}" for name, count in result.counts.items()))
    print("dropped:", json.dumps(dict(sorted(result.dropped.items(), key=lambda d: -d[1]))))
    print(f"rows whose reasoning is their quotes: {manifest.details['num_without_reasoning']:,}")
    print("oracles per row:", dict(sorted(Counter(len(r.oracle_chunk_ids) for r in rows).items())))
    print("targets:", dict(Counter(row.target for row in rows)))
    print("quotes:", dict(quote_statuses(iter(rows))))
    tokens = {name: f"{value:,.0f}" for name, value in manifest.ledger.items()}
    print(f"{seconds:.0f} s, {cpu:.0f} CPU s; ledger {tokens}")


def main() -> None:
    """Make one dataset and print what it came to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--questions", type=int, default=100_000, help="at most")
    parser.add_argument("--keep", type=Path, help="folder for the artifacts")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = arguments.keep or Path(temporary)
        home.mkdir(parents=True, exist_ok=True)
        with RcloneServer(home / "s3") as server:
            settings = Settings(
                _env_file=None,
                home=home,
                s3_endpoint_url=server.endpoint_url,
                s3_access_key_id=server.access_key_id,
                s3_secret_access_key=server.secret_access_key,
                s3_bucket=server.bucket,
            )
            ws = Workspace.open(Notes(), settings)
            documents, pairs = write_inputs(arguments.folder, home)
            corpus = ingest(ws, _NAME, IngestConfig(sources=(str(documents),)))
            print(f"ingested in {corpus.seconds:.0f} s: {corpus.counts}", flush=True)
            index = build_index(ws, _NAME, IndexConfig(), corpus.ref)
            print(f"indexed in {index.seconds:.0f} s", flush=True)
            config = SynthesizeConfig(qa_path=str(pairs), num_questions=arguments.questions)
            wall, cpu = time.monotonic(), time.process_time()
            result = synthesize(ws, _NAME, config, corpus.ref, index.ref)
            report(ws, result, time.monotonic() - wall, time.process_time() - cpu)


if __name__ == "__main__":
    main()
