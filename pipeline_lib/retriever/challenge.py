"""Candidate against champion: both tuned models on the candidate's questions."""

from __future__ import annotations

from functools import partial

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import TuneRetrieverConfig
from pipeline_lib.models import ARTIFACT_PREFIX, resolve_model
from pipeline_lib.retrieval.dense import DenseEncoder
from pipeline_lib.retrieval.schema import IndexRecord
from pipeline_lib.retriever.measuring import (
    CHAMPION,
    MEASURING_VERSION,
    SEARCHES,
    TUNED,
    QuestionResult,
    RetrieverEvaluation,
    questions_of,
    rankings,
    read_evaluation,
    read_questions,
    score_questions,
    search_depth,
    summarize,
    write_evaluation,
)
from pipeline_lib.retriever.mining import documents_of
from pipeline_lib.retriever.naming import retriever_name
from pipeline_lib.retriever.pairs import Passages
from pipeline_lib.retriever.searching import CorpusSearch
from pipeline_lib.retriever.stage import read_pairs
from pipeline_lib.stage import ArtifactDraft, Workspace, run_stage


def challenge_champion(
    ws: Workspace,
    name: str,
    config: TuneRetrieverConfig,
    *,
    candidate: ArtifactRef,
    champion: ArtifactRef,
) -> RetrieverEvaluation:
    """Measure the champion on the candidate's test questions: `evaluation/<name>-retriever`.

    The champion may have been trained on documents that these questions are about, where it was
    tuned on another split of them. That favours the champion, so a promotion still means something.

    Args:
        ws: live services.
        name: the pipeline's name.
        config: of the candidate's tuning; its resampling and cutoffs.
        candidate: has its own results already.
        champion: is measured now, or was for this candidate before.
    """
    result = run_stage(
        ws,
        kind="evaluation",
        name=retriever_name(name),
        stage="challenge_retriever",
        stage_version=MEASURING_VERSION,
        config=config,
        inputs={"model": candidate, CHAMPION: champion},
        seed=config.seed,
        build=partial(_build, ws, config, candidate, champion),
    )
    return read_evaluation(ws.artifacts.directory(result.ref))


def _build(
    ws: Workspace,
    config: TuneRetrieverConfig,
    candidate: ArtifactRef,
    champion: ArtifactRef,
    draft: ArtifactDraft,
) -> None:
    inputs = ws.artifacts.manifest(candidate).input_refs
    record = IndexRecord.load(ws.artifacts.directory(inputs["index"]))
    passages = Passages.load(ws.artifacts.directory(inputs["corpus"]))
    pairs, _ = read_pairs(ws, inputs["dataset"], passages, ("test",))
    questions = questions_of(pairs["test"])
    search = CorpusSearch(ws, passages, record.bm25_language, search_depth(config))
    model = resolve_model(ws.settings, f"{ARTIFACT_PREFIX}{champion}", ws.progress)
    encoder = DenseEncoder(model.path, model.identity, config.batch_tokens)
    vectors = search.vectors(encoder, "Embedding, champion")
    found = search.search(vectors, encoder, [question.text for question in questions])
    theirs = score_questions(questions, rankings(found.branches, CHAMPION), config)
    ours = {each.question_id: each for each in read_questions(ws.artifacts.directory(candidate))}
    results = [_joined(ours[each.question_id], each) for each in theirs]
    evaluation = summarize(
        results,
        [(f"{TUNED}/{how}", f"{CHAMPION}/{how}") for how in SEARCHES],
        config,
        num_documents=len(documents_of(pairs["test"])),
        num_passages=len(passages),
    )
    write_evaluation(draft.directory, evaluation, results)
    draft.counts.update(num_questions=len(results), num_passages=len(passages))
    for arm, estimates in evaluation.arms.items():
        draft.metrics.update({f"{arm} {name}": each.mean for name, each in estimates.items()})


def _joined(ours: QuestionResult, theirs: QuestionResult) -> QuestionResult:
    return ours.model_copy(
        update={
            "ranks": {**ours.ranks, **theirs.ranks},
            "metrics": {**ours.metrics, **theirs.metrics},
        }
    )
