"""Retrieval quality on public sets: the branches, Qdrant's fusions, and what a sweep would choose.

    python -m benchmarks.retrieval.quality FOLDER... [--cache FOLDER] [--chunks] [--titles bm25]

Each folder holds a set in BEIR's layout (corpus.jsonl, queries.jsonl, qrels.tsv, each also .gz),
with spans.jsonl or qa.jsonl where passages of documents are marked. Units are those of the
published figures that are printed beside ours: whole texts; title and first 800 characters for
`medquad`; windows of 800 characters, 150 of them shared, where spans are marked (a window is
relevant when it covers at least half of a span). `--chunks` takes Raftline's own chunks instead,
`--titles` puts the document's title before every text, for BM25 alone or for both branches.

Dense: all-MiniLM-L6-v2. BM25: `qdrant_edge.Bm25` (English) with Qdrant's IDF. Search is exact and
in memory, by Qdrant's formulas. Queries are split in two by a seed; the sweep chooses on one half.
With several sets, the setting of the best mean over their development halves is shown as well.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline_lib.config import (
    BUNDLED_EMBEDDING_MODEL,
    ChunkConfig,
    RetrievalConfig,
    SweepConfig,
)
from pipeline_lib.evaluation.retrieval.exact import Branches, ExactIndex, fuse
from pipeline_lib.evaluation.retrieval.gold import (
    ChunkPlace,
    CorpusDocument,
    Gold,
    document_gold,
    locate_spans,
    span_gold,
)
from pipeline_lib.evaluation.retrieval.judgements import (
    Judgements,
    find_files,
    read_judgements,
)
from pipeline_lib.evaluation.retrieval.lines import json_rows
from pipeline_lib.evaluation.retrieval.scoring import ScoredSystem, compare_systems, score
from pipeline_lib.evaluation.retrieval.sweep import (
    TriedSetting,
    conclude,
    settings_to_try,
    split_queries,
)
from pipeline_lib.evaluation.statistics import Resampling
from pipeline_lib.models import resolve_model
from pipeline_lib.retrieval.dense import DenseEncoder, FloatMatrix
from pipeline_lib.retrieval.sparse import Bm25Encoder
from pipeline_lib.settings import load_settings

CUTOFFS = (1, 5, 10)
METRICS = ("recall@1", "recall@5", "recall@10", "mrr@10", "ndcg@10")
DEEPEST = 100
WINDOW, SHARED = 800, 150
MOST_CHARS: dict[str, int] = {"medquad": 800}
"""Of a text, where the published figures rest on its beginning only."""
PUBLISHED: dict[str, dict[str, float]] = {
    "squad_xquad_en": {"dense": 0.944, "BM25": 0.970, "RRF k=2": 0.972, "DBSF": 0.980},
    "medquad": {"dense": 0.908, "BM25": 0.894, "RRF k=2": 0.919, "DBSF": 0.930},
    "chunking_eval": {"dense": 0.645, "BM25": 0.759, "RRF k=2": 0.744, "DBSF": 0.764},
}
"""nDCG@10, as measured elsewhere with all-MiniLM-L6-v2 and `qdrant_edge.Bm25`, top 50 a branch."""
SYSTEMS: dict[str, RetrievalConfig] = {
    "dense": RetrievalConfig(mode="dense", prefetch_limit=DEEPEST),
    "BM25": RetrievalConfig(mode="sparse", prefetch_limit=DEEPEST),
    "RRF k=2": RetrievalConfig(fusion="rrf", rrf_k=1, prefetch_limit=50),  # Qdrant's count from 0
    "RRF k=61": RetrievalConfig(fusion="rrf", rrf_k=60, prefetch_limit=100),
    "DBSF": RetrievalConfig(fusion="dbsf", prefetch_limit=50),
}
SWEEP = SweepConfig(
    rrf_ks=(1, 10, 60), dense_weights=(0.25, 0.5, 1.0, 2.0), prefetch_limits=(20, 50, 100)
)


@dataclass(frozen=True)
class Unit:
    """What is embedded, found and judged."""

    place: ChunkPlace
    text: str
    title: str


class CachedEncoder:
    """Remembers vectors in files, by model and texts."""

    def __init__(self, folder: Path) -> None:
        model = resolve_model(load_settings(), BUNDLED_EMBEDDING_MODEL)
        self._encoder = DenseEncoder(model.path, model.identity)
        self._folder = folder
        self.model_path = model.path

    def documents(self, texts: Sequence[str]) -> FloatMatrix:
        """Vectors of passages."""
        return self._get("documents", texts)

    def queries(self, texts: Sequence[str]) -> FloatMatrix:
        """Vectors of queries."""
        return self._get("queries", texts)

    def _get(self, kind: str, texts: Sequence[str]) -> FloatMatrix:
        mark = hashlib.sha256("\0".join([self._encoder.identity, kind, *texts]).encode())
        file = self._folder / f"{mark.hexdigest()[:24]}.npy"
        if not file.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            start = time.monotonic()
            encode = getattr(self._encoder, f"encode_{kind}")
            np.save(file, encode(list(texts)))
            print(f"(embedded {len(texts):,} {kind} in {time.monotonic() - start:.0f} s)")
        vectors: FloatMatrix = np.load(file)
        return vectors


def read_corpus(folder: Path) -> dict[str, tuple[str, str]]:
    """Document id to title and text."""
    path = next(p for p in (folder / "corpus.jsonl", folder / "corpus.jsonl.gz") if p.exists())
    rows = (row.values for row in json_rows(path))
    return {str(row["_id"]): (row.get("title") or "", row["text"]) for row in rows}


def published_units(
    name: str, corpus: Mapping[str, tuple[str, str]], judgements: Judgements
) -> Iterator[Unit]:
    """The units that the published figures rest on."""
    for document, (title, text) in corpus.items():
        if judgements.spans:
            starts = range(0, max(1, len(text) - SHARED), WINDOW - SHARED)
            for start, end in ((start, min(start + WINDOW, len(text))) for start in starts):
                place = ChunkPlace(f"{document}:{start}", document, start, end)
                yield Unit(place, text[start:end], title)
            continue
        beginning = text[: MOST_CHARS.get(name)]
        shown = f"{title}\n{beginning}" if name in MOST_CHARS else beginning
        yield Unit(ChunkPlace(document, document, 0, len(text)), shown, title)


def own_units(
    corpus: Mapping[str, tuple[str, str]], model_path: Path, config: ChunkConfig
) -> Iterator[Unit]:
    """Raftline's chunks."""
    from pipeline_lib.corpus.chunking import Chunker, load_tokenizer
    from pipeline_lib.corpus.schema import Document

    chunker = Chunker(load_tokenizer(model_path), config)
    for name, (title, text) in corpus.items():
        document = Document(
            document_id=name,
            source_uri=name,
            title=title,
            media_type="text/plain",
            text=text,
            content_sha256="",
        )
        for chunk in chunker.chunk(document):
            place = ChunkPlace(chunk.chunk_id, name, chunk.start, chunk.end)
            yield Unit(place, chunk.text, title)


def make_gold(
    judgements: Judgements, corpus: Mapping[str, tuple[str, str]], units: Sequence[Unit]
) -> Gold:
    """Spans where there are any, else documents."""
    if not judgements.spans:
        documents = (CorpusDocument(document_id=each, source_uri=each) for each in corpus)
        return document_gold(judgements, documents)
    texts = {document: text for document, (_, text) in corpus.items()}
    located = locate_spans(judgements.spans, {each: each for each in corpus}, texts)
    return span_gold(judgements, located, [unit.place for unit in units])


def measure(
    name: str, config: RetrievalConfig, branches: Mapping[str, Branches], gold: Gold
) -> ScoredSystem:
    """One setting on all queries."""
    rankings = {query: gold.ranking(fuse(found, config)) for query, found in branches.items()}
    return score(name, rankings, gold.relevance, CUTOFFS)


@dataclass(frozen=True)
class Swept:
    """Every setting's values on one set, and how its queries are split."""

    name: str
    tried: tuple[TriedSetting, ...]
    dev: tuple[str, ...]
    held_out: tuple[str, ...]

    def mean(self, row: int, queries: Sequence[str]) -> float:
        """nDCG@10 of one setting on some of the queries."""
        return float(self.tried[row].system.restricted(queries).column("ndcg@10").mean())


def run(folder: Path, arguments: argparse.Namespace, encoder: CachedEncoder) -> Swept:
    """Measure one set and print."""
    name = folder.resolve().name
    judgements = read_judgements(find_files(folder))
    corpus = read_corpus(folder)
    if arguments.chunks:
        units = list(own_units(corpus, encoder.model_path, ChunkConfig()))
    else:
        units = list(published_units(name, corpus, judgements))
    gold = make_gold(judgements, corpus, units)
    plain = [unit.text for unit in units]
    titled = [f"{unit.title}\n{unit.text}" for unit in units]
    bm25 = Bm25Encoder("english")
    index = ExactIndex(
        [unit.place.chunk_id for unit in units],
        [unit.place.document_id for unit in units],
        encoder.documents(titled if arguments.titles == "both" else plain),
        bm25.encode_documents(plain if arguments.titles == "none" else titled),
    )
    queries = {query: judgements.queries[query] for query in gold.relevance}
    asked = list(queries.values())
    found = index.search(encoder.queries(asked), bm25.encode_queries(asked), DEEPEST)
    branches = dict(zip(queries, found, strict=True))

    kind = "own chunks" if arguments.chunks else "published units"
    print(
        f"\n{name}: {len(units):,} {kind}, titles for {arguments.titles}, "
        f"{len(queries):,} queries, by {gold.level}"
    )
    print(f"  {'system':30}" + "".join(f"{metric:>11}" for metric in METRICS) + "  published")
    systems = {each: measure(each, config, branches, gold) for each, config in SYSTEMS.items()}
    for each, system in systems.items():
        print_row(each, system, PUBLISHED.get(name, {}).get(each))
    resampling = Resampling(num_samples=2_000)
    for against in ("dense", "BM25"):
        pair = [(systems["DBSF"], systems[against])]
        [result] = compare_systems(pair, ["ndcg@10"], resampling)
        print(
            f"  DBSF - {against}: ndcg@10 {result.difference:+.3f} "
            f"[{result.low:+.3f}, {result.high:+.3f}], p {result.p_value:.4f}"
        )
    return sweep(name, branches, gold, resampling)


def sweep(name: str, branches: Mapping[str, Branches], gold: Gold, resampling: Resampling) -> Swept:
    """What would be chosen on half of the queries, and what the other half says to it."""
    tried = [
        TriedSetting(setting, measure(setting.name, setting.retrieval, branches, gold))
        for setting in settings_to_try(RetrievalConfig(), SWEEP)
    ]
    dev, held_out = split_queries(branches, 0.5, seed=42)
    result = conclude(
        tried,
        metric="ndcg@10",
        level=gold.level,
        dev=dev,
        held_out=held_out,
        resampling=resampling,
    )
    print(f"  sweep of {len(tried)} settings: {result.recommendation}")
    chosen = next(each for each in tried if each.setting.name == result.chosen)
    print_row(f"chosen: {result.chosen}", chosen.system, None)
    for each in result.settings[:5]:
        print(f"    dev {each.estimate.mean:.4f}  {each.name}")
    return Swept(name, tuple(tried), tuple(dev), tuple(held_out))


def print_joint(sets: Sequence[Swept]) -> None:
    """One setting for all sets: the best mean over their development halves, and the rest."""
    rows = range(len(sets[0].tried))
    means = [float(np.mean([each.mean(row, each.dev) for each in sets])) for row in rows]
    best = max(rows, key=means.__getitem__)
    print(f"\none setting for all {len(sets)} sets: {sets[0].tried[best].setting.name}")
    for title, row in (("in use", 0), ("chosen", best)):
        print(f"  {title}: mean of development halves {means[row]:.4f}, held-out halves", end="")
        for each in sets:
            print(f" {each.name} {each.mean(row, each.held_out):.4f}", end="")
        print()
    resampling = Resampling(num_samples=2_000)
    for each in sets:
        pair = [each.tried[row].system.restricted(each.held_out) for row in (best, 0)]
        [result] = compare_systems([(pair[0], pair[1])], ["ndcg@10"], resampling)
        print(
            f"  chosen - in use, {each.name} held out: {result.difference:+.4f} "
            f"[{result.low:+.4f}, {result.high:+.4f}], p {result.p_value:.4f}"
        )


def print_row(name: str, system: ScoredSystem, published: float | None) -> None:
    """One line of the table."""
    values = [float(system.column(metric).mean()) for metric in METRICS]
    beside = "" if published is None else f"  {published:.3f} ({values[-1] - published:+.4f})"
    print(f"  {name:30}" + "".join(f"{value:11.4f}" for value in values) + beside)


def main() -> None:
    """Measure every set and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--cache", type=Path, default=Path(".raftline/benchmark-vectors"))
    parser.add_argument("--chunks", action="store_true")
    parser.add_argument("--titles", choices=("none", "bm25", "both"), default="none")
    arguments = parser.parse_args()
    if not arguments.folders:
        print("Nothing measured: name folders with sets in BEIR's layout.")
        return
    encoder = CachedEncoder(arguments.cache)
    sets = [run(folder, arguments, encoder) for folder in arguments.folders]
    if len(sets) > 1:
        print_joint(sets)


if __name__ == "__main__":
    main()
