"""Does tuning find more? `tune_retriever` on a public set, measured on held-out documents.

    python -m benchmarks.retrieval.tuned_retriever FOLDER [--questions 200] [--epochs 2] …

FOLDER holds a set in BEIR's layout: `corpus.jsonl`, `queries.jsonl` (either may end in .gz) and
`qrels.tsv`. A passage is a document's title and its first 800 characters. Documents are split
before anything else; `--questions` of those about training documents teach, all about test
documents measure, each looking for its passage among all of the corpus. Printed: every way to
search with its interval, the paired differences, and where the time went.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.published import publish_made
from deployments.stack.s3 import RcloneServer
from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import (
    BUNDLED_EMBEDDING_MODEL,
    FrozenConfig,
    MiningConfig,
    SplitConfig,
    TuneRetrieverConfig,
)
from pipeline_lib.corpus.schema import CHUNK_SCHEMA, CHUNKS_FILE
from pipeline_lib.models import resolve_model
from pipeline_lib.raft.dataset.splitting import split_groups
from pipeline_lib.raft.rows import SPLITS, Passage, Provenance, RaftRow, split_file, write_rows
from pipeline_lib.retrieval.schema import IndexRecord
from pipeline_lib.retriever.measuring import RetrieverEvaluation, read_evaluation
from pipeline_lib.retriever.promotion import promote_retriever
from pipeline_lib.retriever.stage import tune_retriever
from pipeline_lib.settings import Settings
from pipeline_lib.stage import ArtifactDraft, Workspace

PASSAGE_CHARS = 800
NUM_VALIDATION = 30
_SEED = 42
_PROVENANCE = Provenance(
    question_source="user", answer_source="user", teacher_model="", prompt_version="", seed=_SEED
)


class SetConfig(FrozenConfig):
    """Which set, for the fingerprints of its artifacts."""

    folder: str
    num_questions: int


def read_jsonl(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    """The lines of `name.jsonl`, packed or not."""
    path = folder / f"{name}.jsonl"
    data = path.read_bytes() if path.exists() else gzip.decompress(Path(f"{path}.gz").read_bytes())
    for line in data.splitlines():
        yield json.loads(line)


def read_passages(folder: Path) -> dict[str, str]:
    """Document id to its passage; equal passages once."""
    seen: set[str] = set()
    passages = {}
    for document in read_jsonl(folder, "corpus"):
        text = f"{document['title']}\n{document['text']}"[:PASSAGE_CHARS]
        if text not in seen:
            seen.add(text)
            passages[document["_id"]] = text
    return passages


def make_rows(folder: Path, passages: dict[str, str], num_train: int) -> list[RaftRow]:
    """A row for each question; those to train and to validate with are a random sample."""
    questions = {query["_id"]: query["text"] for query in read_jsonl(folder, "queries")}
    gold = {}
    for line in (folder / "qrels.tsv").read_text().splitlines()[1:]:
        question, document, _ = line.split("\t")
        if document in passages:
            gold.setdefault(question, document)
    splits = split_groups([[each] for each in set(gold.values())], SplitConfig(), _SEED)
    rows = [
        _row(name, questions[name], gold[name], passages, splits.split_of) for name in sorted(gold)
    ]
    random.Random(_SEED).shuffle(rows)
    wanted = {"train": num_train, "validation": NUM_VALIDATION, "test": len(rows)}
    return [
        row for split in SPLITS for row in [r for r in rows if r.split == split][: wanted[split]]
    ]


def _row(
    name: str, question: str, document: str, passages: dict[str, str], splits: Mapping[str, Any]
) -> RaftRow:
    oracle = Passage(
        chunk_id=document,
        document_id=document,
        title="",
        text=passages[document],
        role="oracle",
        origin="oracle",
    )
    return RaftRow(
        row_id=name,
        row_key=name,
        split=splits[document],
        task="answer",
        kind="user",
        style="plain",
        question=question,
        context=(oracle,),
        oracle_chunk_ids=(document,),
        oracle_document_ids=(document,),
        source_document_id=document,
        oracle_present=True,
        target="answer",
        reasoning=(),
        final_answer="",
        provenance=_PROVENANCE,
    )


def publish(ws: Workspace, folder: Path, num_train: int) -> dict[str, ArtifactRef]:
    """The set as the artifacts `corpus`, `index` and `dataset`."""
    config = SetConfig(folder=folder.name, num_questions=num_train)
    passages = read_passages(folder)
    base = resolve_model(ws.settings, BUNDLED_EMBEDDING_MODEL)
    record = IndexRecord(
        collection="none",
        alias="none",
        embedding_model=BUNDLED_EMBEDDING_MODEL,
        embedding_identity=base.identity,
        bm25_language="english",
        dimension=384,
        num_points=len(passages),
        points_sha256="",
    )

    def write_corpus(draft: ArtifactDraft) -> None:
        chunks = [_chunk(document, text) for document, text in passages.items()]
        pq.write_table(pa.Table.from_pylist(chunks, CHUNK_SCHEMA), draft.directory / CHUNKS_FILE)

    def write_dataset(draft: ArtifactDraft) -> None:
        rows = make_rows(folder, passages, num_train)
        for split in SPLITS:
            of_split = [row for row in rows if row.split == split]
            write_rows(draft.directory / split_file(split), of_split)

    def write_index(draft: ArtifactDraft) -> None:
        record.save(draft.directory)

    corpus = publish_made(ws, "corpus", config, write_corpus)
    index = publish_made(ws, "index", config, write_index, corpus=corpus)
    dataset = publish_made(ws, "dataset", config, write_dataset, corpus=corpus, index=index)
    return {"dataset": dataset, "corpus": corpus, "index": index}


def _chunk(document: str, text: str) -> dict[str, Any]:
    return {
        "chunk_id": document,
        "document_id": document,
        "ordinal": 0,
        "start": 0,
        "end": len(text),
        "text": text,
        "num_tokens": 0,
        "heading_path": [],
        "places": [],
    }


def report(evaluation: RetrieverEvaluation) -> None:
    """Print means and differences."""
    for arm, estimates in evaluation.arms.items():
        shown = "  ".join(f"{name} {each.mean:.4f}" for name, each in estimates.items())
        print(f"{arm:16} {shown}")
    print()
    for each in evaluation.comparisons:
        if each.metric in ("recall@1", "ndcg@10"):
            print(
                f"{each.arm} - {each.against:16} {each.metric:9} {each.difference:+.4f} "
                f"[{each.low:+.4f}, {each.high:+.4f}] p {each.p_value:.4f}"
            )


def main() -> None:
    """Tune once and print what it came to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--questions", type=int, default=200, help="to train on")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--negatives", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--seed", type=int, default=_SEED)
    arguments = parser.parse_args()
    config = TuneRetrieverConfig(
        mining=MiningConfig(num_negatives=arguments.negatives),
        num_epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
    )
    with tempfile.TemporaryDirectory() as home, RcloneServer(Path(home) / "s3") as server:
        settings = Settings(
            _env_file=None,
            home=Path(home),
            s3_endpoint_url=server.endpoint_url,
            s3_access_key_id=server.access_key_id,
            s3_secret_access_key=server.secret_access_key,
            s3_bucket=server.bucket,
        )
        ws = Workspace.open(settings=settings)
        inputs = publish(ws, arguments.folder, arguments.questions)
        wall, cpu = time.monotonic(), time.process_time()
        result = tune_retriever(ws, "benchmark", config, **inputs)
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        manifest = ws.artifacts.manifest(result.ref)
        counts = ", ".join(f"{name} {count:,}" for name, count in result.counts.items())
        print(f"{arguments.folder.name}: {counts}")
        print(f"{wall:.0f} s, {cpu:.0f} CPU s, {manifest.details['precision']}")
        print(f"best epoch {manifest.details['best_epoch']}: {manifest.details['validation']}")
        print(f"left out as negatives: {manifest.details['negatives_guarded']}\n")
        report(read_evaluation(ws.artifacts.directory(result.ref)))
        decision = promote_retriever(ws, "benchmark", config.promotion, result.ref)
        print(f"\npromoted: {decision.is_promoted}; " + "; ".join(decision.reasons))


if __name__ == "__main__":
    main()
