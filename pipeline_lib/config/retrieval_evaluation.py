"""How retrieval is measured by itself, and which settings a sweep compares."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from pipeline_lib.config.base import Confidence, FrozenConfig, operational
from pipeline_lib.config.corpus import ChunkConfig
from pipeline_lib.config.retrieval import RetrievalConfig

RetrievalMeasure = Literal["ndcg", "recall", "mrr", "precision", "success"]
_Weight = Annotated[float, Field(gt=0, le=1_000)]
_Lambda = Annotated[float, Field(ge=0, le=1)]


class SweepConfig(FrozenConfig):
    """Settings to compare with those in use; each list is varied with the rest left alone.

    Fusion settings are combined with one another and tried on the chunks that there are; chunk
    settings are combined with one another and searched with the fusion that there is.
    """

    modes: tuple[Literal["hybrid", "dense", "sparse"], ...] = Field(
        ("hybrid", "dense", "sparse"), title="Modes", description="Which vectors answer a query."
    )
    fusions: tuple[Literal["dbsf", "rrf"], ...] = Field(
        ("dbsf", "rrf"), title="Fusions", description="How hybrid search joins its branches."
    )
    rrf_ks: tuple[PositiveInt, ...] = Field(
        (1, 60), title="RRF k", description="Rank constants; ranks count from 1."
    )
    dense_weights: tuple[_Weight, ...] = Field(
        (0.5, 1.0, 2.0),
        title="Weights of the dense branch",
        description="Against 1 for the sparse branch.",
    )
    prefetch_limits: tuple[PositiveInt, ...] = Field(
        (),
        title="Candidates per branch",
        description="Before fusion; empty: as configured.",
    )
    mmr_lambdas: tuple[_Lambda, ...] = Field(
        (),
        title="MMR lambdas",
        description="Maximal marginal relevance with the configured fusion; 1 is without.",
    )
    chunk_sizes: tuple[Annotated[int, Field(gt=15, le=8192)], ...] = Field(
        (),
        title="Chunk sizes (tokens)",
        description="The corpus' documents are cut again for each; empty: chunks stay.",
    )
    chunk_overlaps: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0,),
        title="Chunk overlaps (tokens)",
        description="Combined with every chunk size that is larger.",
    )
    dev_fraction: float = Field(
        0.5,
        gt=0,
        lt=1,
        title="Development share of queries",
        description="Settings are chosen on these; the rest is asked once, about the chosen one.",
    )
    max_chunks: int = Field(
        200_000,
        gt=0,
        title="Most chunks in memory",
        description="A chunk setting that gives more is refused: it is searched in memory, at "
        "about 2 kB a chunk for 384 dimensions.",
    )

    @property
    def chunk_settings(self) -> tuple[ChunkConfig, ...]:
        """Every size with every overlap below it."""
        return tuple(
            ChunkConfig(size_tokens=size, overlap_tokens=overlap)
            for size in self.chunk_sizes
            for overlap in self.chunk_overlaps
            if overlap < size
        )


class RetrievalEvaluationConfig(FrozenConfig):
    """Queries with judgements against an index: every branch, their fusion, and a sweep."""

    # The stage fingerprints the files' contents, so where they lie may differ between machines.
    judgements: str | None = operational(
        None,
        title="Queries and judgements (folder)",
        description="BEIR's layout: queries.jsonl and qrels.tsv, or TREC qrels, or spans.jsonl. "
        "Empty: the questions of a dataset artifact.",
    )
    queries: str | None = operational(
        None,
        title="Queries (file)",
        description="In place of the folder's: .jsonl or .tsv, or .gz.",
    )
    qrels: str | None = operational(
        None, title="Judgements (file)", description="In place of the folder's: BEIR or TREC."
    )
    split: Literal["test", "validation", "train", "all"] = Field(
        "test", title="Split", description="Whose questions are asked, of a dataset artifact."
    )
    level: Literal["auto", "documents", "spans", "chunks"] = Field(
        "auto",
        title="What is relevant",
        description="documents: a document counts at its best chunk. spans: a chunk that covers "
        "at least half of a marked span. chunks: the chunk a question was written about. "
        "auto: the finest that the judgements allow.",
    )
    max_queries: int | None = Field(
        None,
        ge=1,
        title="Most queries",
        description="A seeded sample of the judged ones; empty: all.",
    )
    retrieval: RetrievalConfig = Field(
        default_factory=RetrievalConfig,
        title="Retrieval",
        description="Measured beside its branches. Expansion is left out, as it changes no ranks.",
    )
    cutoffs: tuple[PositiveInt, ...] = Field(
        (1, 5, 10),
        min_length=1,
        title="Cutoffs (K)",
        description="Recall, precision, MRR, nDCG and success are measured at each.",
    )
    measure: RetrievalMeasure = Field(
        "ndcg", title="Deciding measure", description="At the largest cutoff; a sweep goes by it."
    )
    depth: int = Field(
        50,
        ge=1,
        le=10_000,
        title="Chunks per query",
        description="Length of the rankings. Beyond retrieval.prefetch_limit a search takes more "
        "candidates than one for a few passages would, so that is refused.",
    )
    sweep: SweepConfig | None = Field(
        None, title="Sweep", description="Settings to compare; empty: none."
    )
    max_unmatched_fraction: float = Field(
        0.1,
        ge=0,
        le=1,
        title="Most unmatched judgements (fraction)",
        description="Judged documents or spans that the corpus lacks count as not found; the "
        "stage fails when they are a larger share.",
    )
    num_bootstrap_samples: int = Field(
        10_000, ge=100, title="Resamples", description="Of the queries, for intervals and p-values."
    )
    confidence: Confidence = 0.95
    seed: int = Field(
        42, ge=0, title="Seed", description="Of sampling queries, splitting them, and resampling."
    )

    @property
    def has_files(self) -> bool:
        """Whether judgements come from files rather than a dataset artifact."""
        return bool(self.judgements or self.qrels)

    @property
    def metric(self) -> str:
        """What decides, for example `ndcg@10`."""
        return f"{self.measure}@{max(self.cutoffs)}"

    @model_validator(mode="after")
    def _depths_fit(self) -> Self:
        if max(self.cutoffs) > self.depth:
            raise ValueError(
                f"depth ({self.depth}) is below the largest cutoff ({max(self.cutoffs)})"
            )
        if self.depth > self.retrieval.prefetch_limit:
            raise ValueError(
                f"depth ({self.depth}) is above retrieval.prefetch_limit "
                f"({self.retrieval.prefetch_limit}): raise that too, or lower depth"
            )
        if not self.judgements and bool(self.queries) != bool(self.qrels):
            raise ValueError("queries and qrels go together: give both, or the folder of both")
        return self
