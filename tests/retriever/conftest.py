"""A world in which questions and passages use different words, and a tiny model that can learn it.

Each passage names three things in one language, each question about it names the same three in
another. No word is shared, so neither BM25 nor an untrained model finds anything; what is learnt
from some passages (which word means which) holds for the others.
"""

from __future__ import annotations

import random
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from deployments.stack.s3 import RcloneServer
from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import (
    ChunkConfig,
    IndexConfig,
    IngestConfig,
    SynthesizeConfig,
    TuneRetrieverConfig,
)
from pipeline_lib.config.retriever import MiningConfig
from pipeline_lib.corpus.chunking import tokenizer_identity
from pipeline_lib.corpus.schema import Corpus, Document
from pipeline_lib.models import resolve_model
from pipeline_lib.raft.rows import Provenance, RaftRow, Split
from pipeline_lib.retrieval.schema import IndexRecord
from pipeline_lib.retriever.pairs import Pair, Passages
from pipeline_lib.retriever.stage import tune_retriever
from pipeline_lib.settings import Settings
from pipeline_lib.stage import StageResult, Workspace
from tests.artifacts.made_artifacts import publish
from tests.corpus.made_corpora import make_chunk, write_corpus
from tests.raft.made_rows import bare_row, write_splits

NUM_THINGS = 12
SPLIT_ENDS: dict[Split, int] = {"train": 48, "validation": 56, "test": 80}
BY_A_USER = Provenance(
    question_source="user", answer_source="user", teacher_model="", prompt_version="", seed=0
)
FILLER = "this passage says something about"


def chunk_id(number: int) -> str:
    """A UUID, as Qdrant wants it."""
    return str(uuid.UUID(int=number))


def thing_in_questions(number: int) -> str:
    return f"qu{chr(97 + number)}"


def thing_in_passages(number: int) -> str:
    return f"pa{chr(97 + number)}"


def triples() -> list[tuple[int, ...]]:
    """80 different sets of three things, in random order."""
    every = [(a, b, c) for a in range(12) for b in range(a) for c in range(b)]
    return random.Random(0).sample(every, SPLIT_ENDS["test"])


def make_row(number: int, things: Sequence[int], split: Split, **changes: Any) -> RaftRow:
    """A row about passage `number`, without distractors."""
    values: dict[str, Any] = {
        "question": " ".join(map(thing_in_questions, things)),
        "row_id": f"row-{number:02}",
        "row_key": f"key-{number:02}",
        "split": split,
        "final_answer": f"answer{number}",
        "provenance": BY_A_USER,
    }
    return bare_row(
        chunk_id=chunk_id(number),
        document_id=f"doc-{number:02}",
        title="",
        text=passage_text(things),
        **(values | changes),
    )


def passage_text(things: Sequence[int]) -> str:
    return f"{FILLER} " + " ".join(map(thing_in_passages, things))


@pytest.fixture(scope="session")
def rows() -> list[RaftRow]:
    """48 rows to train, 8 to validate and 24 to test with, each about a document of its own."""
    made = []
    for number, things in enumerate(triples()):
        split = next(split for split, end in SPLIT_ENDS.items() if number < end)
        made.append(make_row(number, things, split))
    return made


@pytest.fixture(scope="session")
def tiny_embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of one layer that knows this world's words."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    things = [name(n) for name in (thing_in_questions, thing_in_passages) for n in range(12)]
    vocabulary = {word: n for n, word in enumerate([*specials, *FILLER.split(), *things])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )
    torch.manual_seed(0)
    bert = BertModel(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
            hidden_dropout_prob=0.1,
        )
    )
    raw = tmp_path_factory.mktemp("raw")
    bert.save_pretrained(raw)
    fast.save_pretrained(raw)
    transformer = Transformer(str(raw))
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    folder = tmp_path_factory.mktemp("models") / "tiny-embedder"
    model = SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu")
    model.save_pretrained(str(folder), create_model_card=False)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


@dataclass(frozen=True)
class Bench:
    """A dataset with its corpus and index, published; and the means to tune on it."""

    ws: Workspace
    dataset: ArtifactRef
    corpus: ArtifactRef
    index: ArtifactRef

    def tune(self, config: TuneRetrieverConfig, name: str = "demo") -> StageResult:
        return tune_retriever(
            self.ws,
            name,
            config,
            dataset=self.dataset,
            corpus=self.corpus,
            index=self.index,
        )

    def at(
        self, ws: Workspace, rows: Sequence[RaftRow], corpus: ArtifactRef, index: ArtifactRef
    ) -> Bench:
        """Another corpus and index, with a dataset of these rows."""
        return Bench(ws, publish_dataset(ws, rows, corpus, index), corpus, index)

    def with_dataset(self, rows: Sequence[RaftRow]) -> Bench:
        """The same corpus with other rows."""
        return replace(self, dataset=publish_dataset(self.ws, rows, self.corpus, self.index))


@pytest.fixture(scope="session")
def bench(
    s3_server: RcloneServer,
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[RaftRow],
    tiny_embedder: Path,
) -> Bench:
    """This world, published once for all tests: artifacts do not change."""
    values = {
        "home": tmp_path_factory.mktemp("home"),
        "s3_endpoint_url": s3_server.endpoint_url,
        "s3_access_key_id": s3_server.access_key_id,
        "s3_secret_access_key": s3_server.secret_access_key,
        "s3_bucket": s3_server.bucket,
        "s3_prefix": f"retriever-{uuid.uuid4().hex[:12]}",
    }
    ws = Workspace.open(settings=Settings(_env_file=None, **values))
    corpus = publish_corpus(ws, [passage_text(things) for things in triples()], tiny_embedder)
    index = publish_index(ws, corpus, tiny_embedder)
    return Bench(ws, publish_dataset(ws, rows, corpus, index), corpus, index)


@pytest.fixture(scope="session")
def index_of_another_model(
    bench: Bench, tiny_embedder: Path, tmp_path_factory: pytest.TempPathFactory
) -> ArtifactRef:
    """An index of the same corpus by a model of another identity."""
    other = tmp_path_factory.mktemp("models") / "other"
    shutil.copytree(tiny_embedder, other)
    config = other / "config.json"
    config.write_text(config.read_text() + "\n")
    return publish_index(bench.ws, bench.corpus, other)


@pytest.fixture(scope="session")
def tuned(bench: Bench, config: TuneRetrieverConfig) -> StageResult:
    """The model tuned on this world."""
    return bench.tune(config)


@pytest.fixture(scope="session")
def config() -> TuneRetrieverConfig:
    """Enough to learn this world's words in a second or two."""
    return TuneRetrieverConfig(
        mining=MiningConfig(num_negatives=1),
        num_epochs=12,
        batch_size=16,
        learning_rate=5e-3,
        num_bootstrap_samples=1000,
        precision="fp32",
    )


def publish_corpus(ws: Workspace, texts: Sequence[str], model: Path) -> ArtifactRef:
    """One document of one chunk a text, measured by the model's tokenizer."""

    def build(draft: Any) -> None:
        documents = [
            Document(
                document_id=f"doc-{number:02}",
                source_uri=f"file:{number:02}.txt",
                title="",
                media_type="text/plain",
                text=text,
                content_sha256="",
            )
            for number, text in enumerate(texts)
        ]
        chunks = [
            make_chunk(chunk_id(number), text, f"doc-{number:02}")
            for number, text in enumerate(texts)
        ]
        write_corpus(draft.directory, Corpus(tuple(documents), tuple(chunks)))
        draft.details["tokenizer_identity"] = tokenizer_identity(model)

    config = IngestConfig(embedding_model=str(model), chunking=ChunkConfig(size_tokens=32))
    return publish(ws, "corpus", build, config=config, inputs={"content": repr(texts)}).ref


def publish_index(ws: Workspace, corpus: ArtifactRef, model: Path) -> ArtifactRef:
    """An index artifact; tuning asks no Qdrant for its collection."""
    identity = resolve_model(ws.settings, str(model)).identity
    record = IndexRecord(
        collection="demo__0",
        alias="demo",
        embedding_model=str(model),
        embedding_identity=identity,
        bm25_language="english",
        dimension=32,
        num_points=0,
        points_sha256="",
    )
    config = IndexConfig(embedding_model=str(model))
    return publish(
        ws,
        "index",
        lambda draft: record.save(draft.directory),
        config=config,
        inputs={"corpus": corpus},
    ).ref


def publish_dataset(
    ws: Workspace, rows: Sequence[RaftRow], corpus: ArtifactRef, index: ArtifactRef
) -> ArtifactRef:
    return publish(
        ws,
        "dataset",
        lambda draft: write_splits(draft.directory, rows),
        config=SynthesizeConfig(),
        inputs={"corpus": corpus, "index": index, "rows": repr(rows)},
    ).ref


@pytest.fixture
def published_corpus(workspace: Workspace, tiny_embedder: Path) -> ArtifactRef:
    """This world's passages, in a store that nothing else writes to."""
    return publish_corpus(workspace, [passage_text(things) for things in triples()], tiny_embedder)


@pytest.fixture
def make_pair() -> Callable[..., Pair]:
    """A pair about `chunk-00` of `doc-00`."""

    def make(**changes: Any) -> Pair:
        values: dict[str, Any] = {
            "row_id": "row-00",
            "question": "What?",
            "chunk_id": "chunk-00",
            "document_id": "doc-00",
            "answer": "",
            "quotes": (),
            "distractors": (),
        }
        return Pair(**(values | changes))

    return make


@pytest.fixture
def make_passages() -> Callable[..., Passages]:
    """`chunk-00` of `doc-00` and so on, with these texts."""

    def make(*texts: str) -> Passages:
        numbers = range(len(texts))
        return Passages(
            [f"chunk-{n:02}" for n in numbers], [f"doc-{n:02}" for n in numbers], list(texts)
        )

    return make
