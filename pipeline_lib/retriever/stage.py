"""The stage `tune_retriever`: a dataset and its index in, a fine-tuned embedding model out."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import TuneRetrieverConfig
from pipeline_lib.errors import ConfigError
from pipeline_lib.models import ARTIFACT_MODEL_FOLDER, ResolvedModel, resolve_model
from pipeline_lib.raft.rows import SPLITS, Split, read_rows, split_file
from pipeline_lib.retrieval.dense import DenseEncoder
from pipeline_lib.retrieval.schema import IndexRecord
from pipeline_lib.retriever.card import write_card
from pipeline_lib.retriever.measuring import (
    BM25_ARM,
    MEASURING_VERSION,
    SEARCHES,
    TUNED,
    UNTUNED,
    Question,
    QuestionResult,
    RetrieverEvaluation,
    bm25_rankings,
    questions_of,
    rankings,
    score_questions,
    search_depth,
    summarize,
    write_evaluation,
)
from pipeline_lib.retriever.mining import Mined, Miner, TrainingExample, documents_of
from pipeline_lib.retriever.naming import retriever_name
from pipeline_lib.retriever.pairs import Pair, Passages, check_pairs, make_pairs
from pipeline_lib.retriever.searching import CorpusSearch
from pipeline_lib.retriever.training import Trained, train
from pipeline_lib.retriever.validation import Validation
from pipeline_lib.stage import ArtifactDraft, StageResult, Workspace, run_stage

logger = logging.getLogger(__name__)

TUNE_RETRIEVER_STAGE_VERSION = 1
PAIRS_FILE = "pairs.parquet"
LOG_FILE = "log.jsonl"

_PAIR_SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("question", pa.string()),
        ("positive", pa.string()),
        ("negatives", pa.list_(pa.string())),
    ]
)


def tune_retriever(
    ws: Workspace,
    name: str,
    config: TuneRetrieverConfig,
    *,
    dataset: ArtifactRef,
    corpus: ArtifactRef,
    index: ArtifactRef,
) -> StageResult:
    """Fine-tune the index's embedding model on a dataset's questions.

    Makes `model/<name>-retriever`. The training split teaches, with hard negatives found by the
    untuned model; the validation split chooses the epoch; on the test split, whose documents
    training never saw, the tuned model is measured against the untuned one and BM25, among all
    passages of the corpus. The folder `model/` is what `artifact:` references lead to; `README.md`
    is its card, `evaluation.json` and `questions.parquet` the measurement, `pairs.parquet` what it
    was taught, `log.jsonl` how.

    Holds the corpus' chunks and their vectors in memory: some 3 GB for a million chunks of 384
    dimensions. A run that was killed starts again; the passages' vectors it has made are kept.

    Counts: `num_train_pairs`, `num_validation_pairs`, `num_test_questions`, `num_negatives`,
    `num_random_negatives`, `num_steps`, `num_parameters`, `num_passages`. Metrics are named
    `tuned/hybrid ndcg@10`.

    Args:
        ws: live services.
        name: the pipeline's name.
        config: how.
        dataset: of the stage `synthesize`.
        corpus: what the dataset was made from.
        index: of that corpus; its embedding model is the one that is tuned.

    Raises:
        ConfigError: dataset, corpus and index do not belong together, or the embedding model is
            not what the index was made with.
        InputError: too few questions, or documents that are both trained and measured on.
        NonFiniteLossError: the training diverged.
    """
    _check_lineage(ws, dataset, corpus, index)
    record = IndexRecord.load(ws.artifacts.directory(index))
    base = resolve_model(ws.settings, record.embedding_model, ws.progress)
    if base.identity != record.embedding_identity:
        raise ConfigError(
            f"The embedding model {base.name!r} is {base.identity}, but {index} was made with "
            f"{record.embedding_identity}",
            hint="Run the index stage again, or bring back the model it was made with.",
        )
    return run_stage(
        ws,
        kind="model",
        name=retriever_name(name),
        stage="tune_retriever",
        stage_version=TUNE_RETRIEVER_STAGE_VERSION,
        config=config,
        inputs={
            "dataset": dataset,
            "corpus": corpus,
            "index": index,
            "base_model": base.identity,
            "measuring": str(MEASURING_VERSION),
        },
        seed=config.seed,
        build=partial(_build, ws, config, dataset, corpus, index, base, record.bm25_language),
    )


def read_pairs(
    ws: Workspace, dataset: ArtifactRef, passages: Passages, splits: Iterable[Split] = SPLITS
) -> tuple[dict[Split, list[Pair]], Counter[str]]:
    """The pairs of a dataset's splits, and what was left out, by `split_reason`."""
    folder = ws.artifacts.directory(dataset)
    pairs: dict[Split, list[Pair]] = {}
    dropped: Counter[str] = Counter()
    for split in splits:
        pairs[split], why = make_pairs(read_rows(folder / split_file(split)), passages)
        dropped.update({f"{split}_{reason}": count for reason, count in why.items()})
    return pairs, dropped


def _check_lineage(
    ws: Workspace, dataset: ArtifactRef, corpus: ArtifactRef, index: ArtifactRef
) -> None:
    for ref, kind in ((dataset, "dataset"), (index, "index")):
        if ref.kind != kind:
            raise ConfigError(f"{ref} is no artifact of the kind {kind!r}")
        made_from = ws.artifacts.manifest(ref).input_refs.get("corpus")
        if made_from != corpus:
            raise ConfigError(
                f"{ref} was made from {made_from or 'no corpus'}, not from {corpus}",
                hint=f"Give the {kind} of that corpus: a retriever is tuned and measured on the "
                "passages that its questions are about.",
            )


@dataclass(frozen=True, kw_only=True)
class _Untuned:
    """What the untuned model is needed for, so that it need not stay in memory."""

    examples: Mined
    validation: Validation
    test_rankings: dict[str, list[list[str]]]


def _build(
    ws: Workspace,
    config: TuneRetrieverConfig,
    dataset: ArtifactRef,
    corpus: ArtifactRef,
    index: ArtifactRef,
    base: ResolvedModel,
    bm25_language: str,
    draft: ArtifactDraft,
) -> None:
    passages = Passages.load(ws.artifacts.directory(corpus))
    pairs, dropped = read_pairs(ws, dataset, passages)
    check_pairs(pairs, dataset, config.min_pairs)
    questions = questions_of(pairs["test"])
    search = CorpusSearch(ws, passages, bm25_language, search_depth(config))
    untuned = _ask_untuned(base, search, passages, pairs, questions, config)
    taught = [example.pair for example in untuned.examples.examples]
    check_pairs({**pairs, "train": taught}, dataset, config.min_pairs)
    with tempfile.TemporaryDirectory(prefix="tuning-", dir=ws.settings.scratch) as folder:
        trained = train(
            base.path,
            untuned.examples.examples,
            passages,
            untuned.validation,
            config,
            Path(folder),
            ws.progress,
        )
        shutil.copytree(trained.model_path, draft.directory / ARTIFACT_MODEL_FOLDER)
    results = _measure(ws, draft, search, questions, untuned.test_rankings, config)
    evaluation = summarize(
        results,
        [
            (f"{TUNED}/{how}", against)
            for how in SEARCHES
            for against in (f"{UNTUNED}/{how}", BM25_ARM)
        ],
        config,
        num_documents=len(documents_of(pairs["test"])),
        num_passages=len(passages),
    )
    write_evaluation(draft.directory, evaluation, results)
    _write_pairs(draft.directory, untuned.examples.examples)
    _record(draft, pairs, dropped, untuned.examples, trained, evaluation)
    _write_log(draft.directory, trained)
    draft.details["base_model"] = base.name
    write_card(
        draft.directory,
        ref=draft.ref,
        base=base,
        inputs={"dataset": dataset, "corpus": corpus, "index": index},
        config=config,
        counts=draft.counts,
        evaluation=evaluation,
    )


def _ask_untuned(
    base: ResolvedModel,
    search: CorpusSearch,
    passages: Passages,
    pairs: dict[Split, list[Pair]],
    questions: Sequence[Question],
    config: TuneRetrieverConfig,
) -> _Untuned:
    """Negatives, validation pools and the untuned side of the measurement."""
    encoder = DenseEncoder(base.path, base.identity, config.batch_tokens)
    vectors = search.vectors(encoder, "Embedding, untuned")
    held_out = documents_of((*pairs["validation"], *pairs["test"]))
    found = search.search(vectors, encoder, [pair.question for pair in pairs["train"]])
    miner = Miner(passages, vectors, held_out, config.mining, config.seed)
    ranked = rankings(found.branches, UNTUNED)[f"{UNTUNED}/hybrid"]
    examples = miner.mine(pairs["train"], found.queries, ranked)
    logger.info(
        "%d training questions; passages left out because they might answer: %s",
        len(examples.examples),
        dict(examples.guarded) or "none",
    )
    asked = search.search(vectors, encoder, [pair.question for pair in pairs["validation"]])
    pools = rankings(asked.branches, UNTUNED)[f"{UNTUNED}/hybrid"]
    test = search.search(vectors, encoder, [question.text for question in questions])
    return _Untuned(
        examples=examples,
        validation=Validation(pairs["validation"], pools, passages, config.scale),
        test_rankings={**bm25_rankings(test.branches), **rankings(test.branches, UNTUNED)},
    )


def _measure(
    ws: Workspace,
    draft: ArtifactDraft,
    search: CorpusSearch,
    questions: Sequence[Question],
    untuned: dict[str, list[list[str]]],
    config: TuneRetrieverConfig,
) -> list[QuestionResult]:
    model = resolve_model(ws.settings, str(draft.directory / ARTIFACT_MODEL_FOLDER))
    encoder = DenseEncoder(model.path, model.identity, config.batch_tokens)
    vectors = search.vectors(encoder, "Embedding, tuned")
    found = search.search(vectors, encoder, [question.text for question in questions])
    return score_questions(questions, {**untuned, **rankings(found.branches, TUNED)}, config)


def _record(
    draft: ArtifactDraft,
    pairs: dict[Split, list[Pair]],
    dropped: Counter[str],
    mined: Mined,
    trained: Trained,
    evaluation: RetrieverEvaluation,
) -> None:
    draft.counts.update(
        num_train_pairs=len(mined.examples),
        num_validation_pairs=len(pairs["validation"]),
        num_test_questions=evaluation.num_questions,
        num_negatives=sum(len(example.negatives) for example in mined.examples),
        num_random_negatives=mined.num_random,
        num_steps=trained.num_steps,
        num_parameters=trained.num_parameters,
        num_passages=evaluation.num_passages,
    )
    draft.dropped.update(dropped)
    if mined.num_without:
        draft.dropped["train_too_few_negatives"] = mined.num_without
    for arm, estimates in evaluation.arms.items():
        draft.metrics.update({f"{arm} {name}": each.mean for name, each in estimates.items()})
    draft.details.update(
        negatives_guarded=dict(sorted(mined.guarded.items())),
        device=trained.device,
        precision=trained.precision,
        best_epoch=trained.best_epoch,
        validation=[vars(score) for score in (trained.untuned, *trained.epochs)],
    )


def _write_pairs(folder: Path, examples: Sequence[TrainingExample]) -> None:
    rows = [
        {
            "row_id": example.pair.row_id,
            "question": example.pair.question,
            "positive": example.pair.chunk_id,
            "negatives": list(example.negatives),
        }
        for example in examples
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=_PAIR_SCHEMA), folder / PAIRS_FILE)


def _write_log(folder: Path, trained: Trained) -> None:
    """The trainer's log, then the validation scores, epoch 0 being the untuned model."""
    lines = list(trained.log)
    for epoch, score in enumerate((trained.untuned, *trained.epochs)):
        lines.append({"epoch": epoch, "validation_ndcg@10": score.ndcg, "validation": score.loss})
    (folder / LOG_FILE).write_text(
        "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
    )
