"""The stage `synthesize`: a corpus and its index to the artifact `dataset`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.corpus.schema import Corpus
from pipeline_lib.errors import ConfigError, YieldError
from pipeline_lib.generation.base import TextGenerator
from pipeline_lib.generation.endpoint import endpoint_identity
from pipeline_lib.models import resolve_model
from pipeline_lib.progress import phase
from pipeline_lib.raft.assembly import RowAssembler
from pipeline_lib.raft.chat_writer import ChatWriter
from pipeline_lib.raft.drafts import Writer
from pipeline_lib.raft.from_teacher import TEACHER_STEPS, PassageSearcher, TeacherRows
from pipeline_lib.raft.from_user import USER_STEPS, UserRows
from pipeline_lib.raft.funnel import Funnel
from pipeline_lib.raft.local_writer import LocalWriter
from pipeline_lib.raft.recorded import RecordedTeacher
from pipeline_lib.raft.rendering import FORMAT_VERSION
from pipeline_lib.raft.rows import SPLITS, RaftRow, split_file, write_rows
from pipeline_lib.raft.user_pairs import UserPairs, read_user_pairs
from pipeline_lib.retrieval.reranking import reranker_inputs
from pipeline_lib.retrieval.search import Searcher
from pipeline_lib.stage import ArtifactDraft, StageResult, Workspace, run_stage

logger = logging.getLogger(__name__)

SYNTHESIZE_STAGE_VERSION = 1
"""Raised when equal inputs and configuration may give other rows."""


def synthesize(
    ws: Workspace,
    name: str,
    config: SynthesizeConfig,
    corpus: ArtifactRef,
    index: ArtifactRef,
    teacher: TextGenerator | None = None,
    *,
    searcher: PassageSearcher | None = None,
) -> StageResult:
    """Make RAFT rows from a corpus, or find that this was done already.

    Documents are split into train, validation and test before anything is generated. Rows come from
    the user's questions and answers when `config.qa_path` is set, else from a teacher that is
    trusted with nothing: every question, quote, answer and sentence of reasoning passes gates, and
    `funnel.json` and `rejects.parquet` say what did not and why. Everything a teacher writes is
    kept as it comes, so that a run that was killed pays for nothing twice.

    Counts: `num_documents`, `num_chunks`, `num_candidates`, `num_rows`, `num_train`,
    `num_validation`, `num_test`. Drops are counted by `step.reason`.

    Args:
        ws: live services.
        name: the pipeline's name.
        config: what to make.
        corpus: the corpus artifact.
        index: the index of that corpus.
        teacher: the model that writes; by default what `config.teacher` names. One that is given
            is handled as `config.teacher.kind` says.
        searcher: finds passages; by default in `index`.

    Raises:
        YieldError: fewer than `config.min_rows` rows were kept, or a split is empty.
        InputError: too few documents or passages, or the user's questions cannot be used.
        ConfigError: `index` is not of `corpus`, or no endpoint is set for an endpoint teacher.
        ModelNotFoundError: the local teacher is not there.
        GenerationError: the teacher failed; what it had written is kept.
    """
    indexed = ws.artifacts.manifest(index).input_refs.get("corpus")
    if indexed != corpus:
        raise ConfigError(
            f"{index} is the index of {indexed}, not of {corpus}",
            hint="Index the corpus that the questions are to come from.",
        )
    pairs = read_user_pairs(Path(config.qa_path).expanduser()) if config.qa_path else None
    identity = teacher.model_identity if teacher is not None else _teacher_identity(ws, config)
    inputs: dict[str, ArtifactRef | str] = {
        "corpus": corpus,
        "index": index,
        "teacher": identity,
        "prompts": f"{_writer_class(config).prompt_version}/format-{FORMAT_VERSION}",
        **reranker_inputs(ws.settings, config.retrieval),
    }
    if pairs is not None:
        inputs["user_questions"] = f"sha256:{pairs.sha256}"
    return run_stage(
        ws,
        kind="dataset",
        name=name,
        stage="synthesize",
        stage_version=SYNTHESIZE_STAGE_VERSION,
        config=config,
        inputs=inputs,
        build=partial(
            _build, ws, config, corpus, index, pairs, identity, teacher, searcher,
        ),
        seed=config.seed,
    )  # fmt: skip


def _build(
    ws: Workspace,
    config: SynthesizeConfig,
    corpus_ref: ArtifactRef,
    index: ArtifactRef,
    pairs: UserPairs | None,
    identity: str,
    teacher: TextGenerator | None,
    searcher: PassageSearcher | None,
    draft: ArtifactDraft,
) -> None:
    with ExitStack() as opened:
        recorded = RecordedTeacher(
            (lambda: teacher)
            if teacher is not None
            else partial(_open_teacher, ws, config, opened),
            identity,
            draft.partial,
            on_progress=lambda what, done, total: ws.progress.note(f"{what}: {done} of {total}"),
        )
        _make(ws, config, corpus_ref, index, pairs, recorded, searcher, draft)


def _make(
    ws: Workspace,
    config: SynthesizeConfig,
    corpus_ref: ArtifactRef,
    index: ArtifactRef,
    pairs: UserPairs | None,
    recorded: RecordedTeacher,
    searcher: PassageSearcher | None,
    draft: ArtifactDraft,
) -> None:
    corpus = Corpus.load(ws.artifacts.directory(corpus_ref))
    titles = {document.document_id: document.title for document in corpus.documents}
    writer: Writer = _writer_class(config)(recorded, titles, config)
    assembler = RowAssembler(
        corpus.chunks,
        titles,
        config,
        teacher_model=recorded.model_identity,
        prompt_version=f"{writer.prompt_version}/format-{FORMAT_VERSION}",
    )
    searcher = searcher or Searcher.open(ws, index)
    funnel = Funnel(TEACHER_STEPS if pairs is None else USER_STEPS)
    with phase(ws.progress, "Synthesizing", config.num_questions, "rows") as progress:
        if pairs is None:
            made = TeacherRows(writer, assembler, searcher, config, funnel, progress)
            rows = made.make(corpus.chunks)
        else:
            explained = UserRows(writer, assembler, searcher, config, funnel, progress)
            rows = explained.make(pairs, corpus)
            draft.details["num_without_reasoning"] = explained.num_without_reasoning
            draft.details["ignored_fields"] = list(pairs.ignored_fields)
    draft.ledger.update(recorded.ledger.as_dict())
    _check_yield(rows, config, funnel, has_pairs=pairs is not None)
    _write(draft, rows, corpus, funnel, assembler)


def _write(
    draft: ArtifactDraft,
    rows: Sequence[RaftRow],
    corpus: Corpus,
    funnel: Funnel,
    assembler: RowAssembler,
) -> None:
    for split in SPLITS:
        of_split = sorted((r for r in rows if r.split == split), key=lambda row: row.row_id)
        write_rows(draft.directory / split_file(split), of_split)
        draft.counts[f"num_{split}"] = len(of_split)
    funnel.write(draft.directory, num_rows=len(rows))
    draft.counts.update(
        num_documents=len(corpus.documents),
        num_chunks=len(corpus.chunks),
        num_candidates=funnel.num_candidates,
        num_rows=len(rows),
        num_oracle_absent=sum(not row.oracle_present for row in rows),
    )
    draft.dropped.update(funnel.dropped)
    draft.metrics["yield"] = len(rows) / max(1, funnel.num_candidates)
    draft.details["distractors_guarded"] = dict(sorted(assembler.guarded.items()))


def _check_yield(
    rows: Sequence[RaftRow], config: SynthesizeConfig, funnel: Funnel, *, has_pairs: bool
) -> None:
    counts = {split: sum(row.split == split for row in rows) for split in SPLITS}
    empty = [split for split, count in counts.items() if count == 0]
    if len(rows) >= config.min_rows and not empty:
        if len(rows) < config.num_questions:
            logger.warning(
                "%d of %d rows wanted were kept; the funnel says why:\n%s",
                len(rows),
                config.num_questions,
                funnel,
            )
        return
    problem = f"{len(rows)} rows were kept, {config.min_rows} are needed"
    if empty:
        problem += f"; no row for {' and '.join(empty)}"
    hint = (
        "Bring more questions about more documents, see in rejects which answers no passage "
        "supports, or lower min_rows."
        if has_pairs
        else "Raise max_candidates_per_question, use a larger teacher (teacher.kind 'endpoint'), "
        "bring your own questions (qa_path), add documents, or lower min_rows."
    )
    raise YieldError(f"{problem}. The yield, step by step:\n{funnel}", hint=hint)


def _writer_class(config: SynthesizeConfig) -> type[LocalWriter] | type[ChatWriter]:
    return LocalWriter if config.teacher.kind == "local" else ChatWriter


def _teacher_identity(ws: Workspace, config: SynthesizeConfig) -> str:
    """Known without loading a model, so that a reused dataset costs nothing."""
    if config.teacher.kind == "endpoint":
        return endpoint_identity(config.teacher.model)
    return resolve_model(ws.settings, config.teacher.model, ws.progress).identity


def _open_teacher(ws: Workspace, config: SynthesizeConfig, opened: ExitStack) -> TextGenerator:
    if config.teacher.kind == "endpoint":
        from pipeline_lib.generation.endpoint import EndpointGenerator

        return opened.enter_context(EndpointGenerator(ws.settings, config.teacher))
    from pipeline_lib.generation.local import LocalGenerator

    model = resolve_model(ws.settings, config.teacher.model, ws.progress)
    ws.progress.note(f"loading {model.name}")
    return LocalGenerator(model.path, batch_size=config.teacher.batch_size, identity=model.identity)
