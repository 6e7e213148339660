"""The stage `synthesize`: a corpus and its index to the artifact `dataset`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypedDict

from pipeline_lib.artifacts.manifest import ArtifactKind, ArtifactRef
from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.errors import ConfigError, YieldError
from pipeline_lib.generation.base import TextGenerator
from pipeline_lib.generation.ledger import Ledger
from pipeline_lib.raft.card import CardFacts, write_card
from pipeline_lib.raft.dataset.decontamination import Decontaminator
from pipeline_lib.raft.dataset.evaluation_set import describe_evaluation_set
from pipeline_lib.raft.dataset.previous import (
    PREVIOUS_INPUT,
    RECIPE_DETAIL,
    PreviousDataset,
    find_base,
    make_recipe,
)
from pipeline_lib.raft.gates.build import toxic_words
from pipeline_lib.raft.making import DatasetMaker, Made
from pipeline_lib.raft.prompts.library import PromptLibrary
from pipeline_lib.raft.rendering import FORMAT_VERSION
from pipeline_lib.raft.review.verdicts import Verdicts
from pipeline_lib.raft.rows import SPLITS, iter_rows, split_file
from pipeline_lib.raft.teachers import TeacherSource
from pipeline_lib.raft.user_pairs import UserPairs, read_user_pairs
from pipeline_lib.raft.writers.make import writer_prompt_version
from pipeline_lib.retrieval.reranking import reranker_inputs
from pipeline_lib.retrieval.search import PassageSearcher
from pipeline_lib.stage import ArtifactDraft, StageResult, Workspace, run_stage, stage_ref

logger = logging.getLogger(__name__)

SYNTHESIZE_STAGE_VERSION = 2
"""Raised when equal inputs and configuration may give other rows."""

LEDGER_DETAIL = "ledger"
"""Field of `Manifest.details` with the ledger's lines by step and model."""
PARTIAL_DETAIL = "partial"
"""Field of `Manifest.details` that says why a dataset has not all rows that it could have."""
_REPEATABLE = ("num_completions", "prompt_tokens", "completion_tokens", "num_scored_targets")
"""Of the ledger, what is the same however often the run was interrupted."""


class StageFields(TypedDict):
    """What `stage_ref` and `run_stage` are both told."""

    kind: ArtifactKind
    name: str
    stage: str
    stage_version: int
    config: SynthesizeConfig
    inputs: dict[str, ArtifactRef | str]
    seed: int


@dataclass(frozen=True)
class Job:
    """One dataset to be: everything that its content depends on, read but not yet worked on."""

    ws: Workspace
    name: str
    config: SynthesizeConfig
    corpus: ArtifactRef
    index: ArtifactRef
    pairs: UserPairs | None
    prompts: PromptLibrary
    prompt_version: str
    verdicts: Verdicts
    decontaminator: Decontaminator
    teacher: TeacherSource
    searcher: PassageSearcher | None

    @classmethod
    def prepare(
        cls,
        ws: Workspace,
        name: str,
        config: SynthesizeConfig,
        corpus: ArtifactRef,
        index: ArtifactRef,
        teacher: TextGenerator | None = None,
        searcher: PassageSearcher | None = None,
    ) -> Job:
        """Read and check all that a dataset rests on; see `synthesize`."""
        indexed = ws.artifacts.manifest(index).input_refs.get("corpus")
        if indexed != corpus:
            raise ConfigError(
                f"{index} is the index of {indexed}, not of {corpus}",
                hint="Index the corpus that the questions are to come from.",
            )
        folder = Path(config.prompts_path).expanduser() if config.prompts_path else None
        prompts = PromptLibrary.load(folder)
        return cls(
            ws=ws,
            name=name,
            config=config,
            corpus=corpus,
            index=index,
            pairs=read_user_pairs(Path(config.qa_path).expanduser()) if config.qa_path else None,
            prompts=prompts,
            prompt_version=f"{writer_prompt_version(config, prompts)}/format-{FORMAT_VERSION}",
            verdicts=Verdicts.load(ws, name),
            decontaminator=Decontaminator.load(
                config.split.decontaminate_paths, config.questions.near_duplicate_threshold
            ),
            teacher=TeacherSource.find(ws, config.teacher, teacher),
            searcher=searcher,
        )

    @property
    def recipe(self) -> str:
        """Hash of all that rows are made by, beside the corpus."""
        return make_recipe(
            self.config, prompt_version=self.prompt_version, teacher_model=self.teacher.identity
        )

    def inputs(self, base: ArtifactRef | None) -> dict[str, ArtifactRef | str]:
        """What the fingerprint covers, for a dataset that builds on `base`."""
        config = self.config
        inputs: dict[str, ArtifactRef | str] = {
            "corpus": self.corpus,
            "index": self.index,
            "teacher": self.teacher.identity,
            "prompts": self.prompt_version,
            "verdicts": f"sha256:{self.verdicts.sha256}",
            **reranker_inputs(self.ws.settings, config.retrieval),
        }
        if self.pairs is not None:
            inputs["user_questions"] = f"sha256:{self.pairs.sha256}"
        if self.decontaminator.sha256:
            inputs["kept_away_from"] = f"sha256:{self.decontaminator.sha256}"
        if config.gates.toxicity:
            inputs["toxic_words"] = f"sha256:{toxic_words(config).sha256}"
        if config.budget.max_cost is not None:
            inputs["prices"] = config.teacher.prices.model_dump_json()
        if base is not None:
            inputs[PREVIOUS_INPUT] = base
        return inputs

    def base(self) -> ArtifactRef | None:
        """The dataset to build on; `None` when the configuration wants none, or there is none."""
        if not (self.config.incremental or self.config.split.keep_evaluation_set):
            return None
        return find_base(self.ws.artifacts, self.name, self.made_on)

    def made_on(self, base: ArtifactRef | None) -> ArtifactRef:
        """What the dataset will be called if it builds on `base`."""
        return stage_ref(**self.stage_fields(base))

    def stage_fields(self, base: ArtifactRef | None) -> StageFields:
        """What names the dataset if it builds on `base`, before it is made and when it is."""
        return {
            "kind": "dataset",
            "name": self.name,
            "stage": "synthesize",
            "stage_version": SYNTHESIZE_STAGE_VERSION,
            "config": self.config,
            "inputs": self.inputs(base),
            "seed": self.config.seed,
        }


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
    kept as it comes, so that no run pays for the same words twice. What of the pipeline's latest
    dataset still holds is taken over, byte for byte.

    Counts: `num_rows`, `num_train`, `num_validation`, `num_test` (RAFT rows), `num_candidates`,
    `num_carried_over`, `num_task_rows`, `num_preference_pairs`, `num_pretraining_documents`,
    `num_oracle_absent`, `num_documents`, `num_chunks`. Drops are counted by `step.reason`, rows of
    the dataset before that were not taken over by `retired.reason`.

    Args:
        ws: live services.
        name: the pipeline's name.
        config: what to make.
        corpus: the corpus artifact.
        index: the index of that corpus.
        teacher: the model that writes; by default what `config.teacher` names. One that is given
            is handled as `config.teacher` says.
        searcher: finds passages; by default in `index`.

    Raises:
        YieldError: fewer than `config.min_rows` rows were kept, or a split is empty.
        InputError: too few documents or passages, or a file of the user's cannot be used.
        ConfigError: `index` is not of `corpus`, a prompt template cannot be used, the teacher
            cannot write what is wanted, or no endpoint is set for an endpoint teacher.
        ModelNotFoundError: the local teacher is not there.
        GenerationError: the teacher failed; what it had written is kept.
    """
    job = Job.prepare(ws, name, config, corpus, index, teacher, searcher)
    base = job.base()
    return run_stage(ws, **job.stage_fields(base), build=partial(_build, job, base))


def _build(job: Job, base: ArtifactRef | None, draft: ArtifactDraft) -> None:
    with ExitStack() as opened:
        teacher = job.teacher.open(job.config.budget, opened)
        previous = PreviousDataset.find(job.ws.artifacts, base)
        maker = opened.enter_context(DatasetMaker(job, teacher, draft.directory, previous))
        made = maker.make()
    _check_yield(made, job)
    _describe(draft, job, made, teacher.ledger)


def _describe(draft: ArtifactDraft, job: Job, made: Made, ledger: Ledger) -> None:
    """The files beside the rows, and the manifest's counts."""
    config, files, funnel = job.config, made.files, made.funnel
    funnel.write(num_rows=files.num_rows - made.num_carried)
    made.plan.write(draft.directory)
    tested = iter_rows(draft.directory / split_file("test"))
    evaluation_set = describe_evaluation_set(tested, made.kept_questions)
    evaluation_set.write(draft.directory)
    draft.counts.update(
        num_rows=files.num_rows,
        **{f"num_{split}": files.by_split[split] for split in SPLITS},
        num_candidates=funnel.num_candidates,
        num_carried_over=made.num_carried,
        num_task_rows=files.by_task.total() - files.num_rows,
        num_preference_pairs=files.num_pairs,
        num_pretraining_documents=files.num_texts,
        num_oracle_absent=files.num_oracle_absent,
        num_documents=len(made.corpus.documents),
        num_chunks=len(made.corpus.chunks),
    )
    draft.dropped.update(funnel.dropped)
    draft.dropped.update({f"retired.{why}": number for why, number in made.retired.items()})
    draft.metrics["yield"] = (files.num_rows - made.num_carried) / max(1, funnel.num_candidates)
    draft.ledger.update(ledger.totals())
    draft.details.update(
        {
            RECIPE_DETAIL: job.recipe,
            LEDGER_DETAIL: ledger.as_records(),
            "distractors_guarded": dict(sorted(made.guarded.items())),
            "distractors_not_made": dict(sorted(made.not_made.items())),
            "evaluation_set": evaluation_set.fingerprint,
            **made.details,
        }
    )
    if made.notice:
        draft.details[PARTIAL_DETAIL] = made.notice
        logger.warning("%s", made.notice)
    write_card(
        draft.directory,
        CardFacts(
            ref=draft.ref,
            inputs=_references(job, made),
            config=config,
            teacher=job.teacher.identity,
            ledger={name: ledger.totals()[name] for name in _REPEATABLE},
            notice=made.notice,
            num_carried_over=made.num_carried,
        ),
        made.files.statistics,
    )


def _references(job: Job, made: Made) -> Mapping[str, ArtifactRef]:
    references = {"corpus": job.corpus, "index": job.index}
    return references | ({"dataset before": made.previous} if made.previous else {})


def _check_yield(made: Made, job: Job) -> None:
    config, files = job.config, made.files
    empty = [split for split in SPLITS if not files.by_split[split]]
    if files.num_rows >= config.min_rows and not empty:
        wanted = config.num_questions
        if job.pairs is not None:
            wanted = min(wanted, len(job.pairs.pairs))
        if files.num_rows < wanted and not made.notice:
            logger.warning(
                "%d of %d rows wanted were kept; the funnel says why:\n%s",
                files.num_rows,
                wanted,
                made.funnel,
            )
        return
    problem = f"{files.num_rows} rows were kept, {config.min_rows} are needed"
    if empty:
        problem += f"; no row for {' and '.join(empty)}"
    if made.notice:
        problem += f". {made.notice}"
        hint = "Raise the budget: what was paid for is kept, and not paid for again."
    elif job.pairs is not None:
        hint = (
            "Bring more questions about more documents, see in rejects which answers no passage "
            "supports, or lower min_rows."
        )
    else:
        hint = (
            "Raise max_candidates_per_question, use a larger teacher (teacher.kind 'endpoint'), "
            "bring your own questions (qa_path), add documents, or lower min_rows."
        )
    raise YieldError(f"{problem}. The yield, step by step:\n{made.funnel}", hint=hint)
