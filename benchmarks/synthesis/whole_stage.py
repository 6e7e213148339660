"""The whole stage with a teacher of fixed latency: rows per second and own CPU for each row.

    python -m benchmarks.synthesis.whole_stage [--latency 1] [--in-flight 16 64 256] [--turns 24]

A scripted OpenAI-compatible server in a process of its own asks one question about every passage
and answers it with a quote. Everything else is as in a run: topics, prompts, gates, contexts, rows,
the completion store on a local S3 server (whose process is not counted). Retrieval is a dictionary,
because its cost is the index's. Two requests make a row; at each number in flight as many rows are
made as fill `--turns` latencies. Linear is in flight / (2 x latency). CPU is this process's, all
threads.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.published import publish_made
from benchmarks.synthesis.endpoint import FixedLatency, served
from deployments.stack.s3 import RcloneServer
from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import IngestConfig, RetrievalConfig, SynthesizeConfig
from pipeline_lib.corpus.schema import (
    CHUNK_SCHEMA,
    CHUNKS_FILE,
    DOCUMENT_SCHEMA,
    DOCUMENTS_FILE,
    Chunk,
    Document,
)
from pipeline_lib.raft.stage import synthesize
from pipeline_lib.retrieval.hits import Hit
from pipeline_lib.settings import Settings
from pipeline_lib.stage import ArtifactDraft, Workspace

_FACT = re.compile(r"The station (s\w+) lies (\d+) metres above the sea")
_NAME = re.compile(r"station (s\w+)")


class Teacher(FixedLatency):
    """Asks about the one fact of a passage, and answers from it."""

    def reply(self, body: bytes) -> bytes:
        """Question or answer, whichever is asked for."""
        messages = json.loads(body)["messages"]
        fact = _FACT.search(messages[-1]["content"])
        assert fact is not None
        if '{"questions"' in messages[0]["content"]:
            question = f"How many metres above the sea does station {fact[1]} lie?"
            text = json.dumps({"questions": [question]})
        else:
            text = (
                f'The passage gives the height of {fact[1]}. <quote doc="1">{fact[0]}</quote>\n'
                f"<answer>{fact[2]} metres</answer>"
            )
        usage = {"prompt_tokens": len(body) // 4, "completion_tokens": len(text) // 4}
        choice = {"message": {"content": text}, "finish_reason": "stop"}
        return json.dumps({"choices": [choice], "usage": usage}).encode()


def station(number: int) -> str:
    """About 115 words, one fact."""
    rng = random.Random(number)
    words = " ".join(f"w{rng.randrange(50_000)}" for _ in range(100))
    return (
        f"The station s{number:06} lies {number + 17} metres above the sea. Its log reads {words}."
    )


class Dictionary:
    """Finds a question's passage first, and ten others that depend on it."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self._chunks = chunks

    def search(
        self,
        queries: Sequence[str],
        *,
        limit: int,
        config: RetrievalConfig,  # noqa: ARG002 (there is nothing to configure)
    ) -> list[list[Hit]]:
        """See `PassageSearcher`."""
        return [self._hits(query, limit) for query in queries]

    def _hits(self, query: str, limit: int) -> list[Hit]:
        found = _NAME.search(query)
        first = int(found[1][1:]) if found else 0
        places = [(first + 7 * step) % len(self._chunks) for step in range(limit)]
        return [
            Hit(
                chunk_id=self._chunks[place].chunk_id,
                document_id=self._chunks[place].document_id,
                title="Stations",
                source_uri="",
                text=self._chunks[place].text,
                start=0,
                end=len(self._chunks[place].text),
                rank=rank,
                score=1 / rank,
            )
            for rank, place in enumerate(places, start=1)
        ]


def publish(ws: Workspace, num_passages: int) -> tuple[ArtifactRef, ArtifactRef, list[Chunk]]:
    """A corpus of one passage a document, and an index that is nothing but its name."""
    texts = [station(number) for number in range(num_passages)]
    documents = [
        Document(
            document_id=f"d{number:06}",
            source_uri=f"made:{number}",
            title="Stations",
            media_type="text/plain",
            text=text,
            content_sha256=str(number),
        )
        for number, text in enumerate(texts)
    ]
    chunks = [
        Chunk(
            chunk_id=f"c{number:06}",
            document_id=f"d{number:06}",
            ordinal=0,
            start=0,
            end=len(text),
            text=text,
            num_tokens=115,
        )
        for number, text in enumerate(texts)
    ]

    def write(draft: ArtifactDraft) -> None:
        for records, schema, file in (
            (documents, DOCUMENT_SCHEMA, DOCUMENTS_FILE),
            (chunks, CHUNK_SCHEMA, CHUNKS_FILE),
        ):
            table = pa.Table.from_pylist([asdict(record) for record in records], schema)
            pq.write_table(table, draft.directory / file)

    def write_index(draft: ArtifactDraft) -> None:
        (draft.directory / "index.json").write_text("{}")

    config = IngestConfig()
    corpus = publish_made(ws, "corpus", config, write, passages=str(num_passages))
    index = publish_made(ws, "index", config, write_index, corpus=corpus)
    return corpus, index, chunks


def run(ws: Workspace, in_flight: int, num_rows: int) -> dict[str, Any]:
    """One dataset from nothing."""
    # More passages than rows, for every split has to have enough of them.
    corpus, index, chunks = publish(ws, 2 * num_rows)
    config = SynthesizeConfig.model_validate(
        {
            "teacher": {
                "kind": "endpoint",
                "model": f"scripted-{in_flight}",
                "concurrency": in_flight,
            },
            "questions": {"kinds": {"factual": 1}, "per_passage": 1},
            "num_questions": num_rows,
        }
    )
    wall, cpu = time.perf_counter(), time.process_time()
    result = synthesize(ws, f"at-{in_flight}", config, corpus, index, searcher=Dictionary(chunks))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    ledger = ws.artifacts.manifest(result.ref).ledger
    return {
        "rows": result.counts["num_rows"],
        "wall": wall,
        "waiting": ledger["teacher_seconds"],
        "requests": ledger["num_completions"],
        "cpu_ms": 1000 * cpu / result.counts["num_rows"],
    }


def main() -> None:
    """Print a line for each number in flight."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, default=1.0, help="seconds")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--turns", type=int, default=24, help="requests per place in flight")
    arguments = parser.parse_args()
    print("in flight   rows   rows/s   of linear   requests/s while waiting   own CPU ms/row")
    with (
        tempfile.TemporaryDirectory() as home,
        RcloneServer(Path(home) / "s3") as server,
        served(arguments.latency, Teacher) as url,
    ):
        settings = Settings(
            _env_file=None,
            home=Path(home),
            s3_endpoint_url=server.endpoint_url,
            s3_access_key_id=server.access_key_id,
            s3_secret_access_key=server.secret_access_key,
            s3_bucket=server.bucket,
            teacher_base_url=url,
        )
        ws = Workspace.open(settings=settings)
        run(ws, 8, 32)  # so that loading libraries is not counted as making rows
        for in_flight in arguments.in_flight:
            made = run(ws, in_flight, in_flight * arguments.turns // 2)
            rate = made["rows"] / made["wall"]
            share = rate / (in_flight / (2 * arguments.latency))
            print(
                f"{in_flight:9} {made['rows']:6} {rate:8.1f} {share:11.0%} "
                f"{made['requests'] / made['waiting']:26.1f} {made['cpu_ms']:16.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
