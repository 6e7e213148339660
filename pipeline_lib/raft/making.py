"""Making a dataset: what is taken over from the one before, what is made anew, in which order.

1. Documents are split; known ones stay where they were.
2. Test questions are taken over, with new contexts where passages were cut anew. A dataset without
   any makes its own, before the other splits: what they ask is then kept out of training.
3. Rows of the other splits that still hold are taken over.
4. What is missing is made: about changed documents first, then about what was never asked about.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.corpus.schema import Corpus
from pipeline_lib.generation.metered import MeteredTeacher
from pipeline_lib.progress import phase
from pipeline_lib.raft.candidates import Topic, Writer
from pipeline_lib.raft.contexts.assembly import ContextBuilder
from pipeline_lib.raft.dataset.decontamination import Uncontaminated
from pipeline_lib.raft.dataset.evaluation_set import KeptQuestions
from pipeline_lib.raft.dataset.previous import PreviousDataset
from pipeline_lib.raft.dataset.splitting import SplitPlan, split_documents, wanted_rows
from pipeline_lib.raft.from_user import USER_STEPS, LocatedPair, UserRows, locate_pairs
from pipeline_lib.raft.funnel import Funnel
from pipeline_lib.raft.gates.build import (
    answer_gates,
    question_gates,
    round_trip_gates,
    steps_of,
)
from pipeline_lib.raft.gates.duplicates import AskedBefore, SaidBefore
from pipeline_lib.raft.output import DatasetFiles
from pipeline_lib.raft.rounds import Rounds
from pipeline_lib.raft.rows import SPLITS, RaftRow, Split
from pipeline_lib.raft.synthesis import CONTEXT_STEPS, Synthesis
from pipeline_lib.raft.taking_over import LEARNT, TakingOver
from pipeline_lib.raft.user_pairs import UserPairs
from pipeline_lib.raft.writers.make import make_writer
from pipeline_lib.raft.writers.topics import TopicPlanner
from pipeline_lib.retrieval.search import PassageSearcher, Searcher

if TYPE_CHECKING:
    from pipeline_lib.raft.stage import Job

_WANTED = "wanted"
_RARE_COLLECTIONS = (20_000, 20, 20)
"""See `gc.set_threshold`; a collection is a walk through what a round holds."""
_TRUSTED_QUESTION_STEPS = frozenset({"question", "new"})
"""Gates that a question of the user's need not pass: it is wanted as it is."""


@dataclass
class Made:
    """A dataset's rows, written, and what is to be said about them."""

    corpus: Corpus
    plan: SplitPlan
    funnel: Funnel
    files: DatasetFiles
    previous: ArtifactRef | None
    """The dataset that rows were taken over from."""
    num_carried: int
    """Rows taken over."""
    retired: Mapping[str, int]
    """Rows of the dataset before that were not, by reason."""
    guarded: Mapping[str, int]
    """Passages kept out of contexts, by reason."""
    not_made: Mapping[str, int]
    """Made-up passages that were wanted and could not be made, by origin."""
    kept_questions: KeptQuestions | None = None
    notice: str = ""
    """Why it is partial; empty when it is not."""
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Beginning:
    """Where the making of rows by a teacher begins."""

    plan: SplitPlan
    queues: Mapping[Split, Iterator[Topic]]
    """What to ask about, first things first."""
    missing: Mapping[Split, int]
    """Rows to be made, beside those that were taken over."""
    kept_questions: KeptQuestions | None


@dataclass(frozen=True)
class BeginningWithPairs:
    """Where the making of rows from the user's pairs begins."""

    plan: SplitPlan
    located: Sequence[LocatedPair]
    kept: Mapping[str, RaftRow]
    """Rows that need not be made again, by id."""


class DatasetMaker:
    """Makes the rows of one dataset; a context manager, which closes the files.

    Args:
        job: what to make.
        teacher: who writes.
        directory: where files go.
        previous: the dataset to build on.
    """

    def __init__(
        self,
        job: Job,
        teacher: MeteredTeacher,
        directory: Path,
        previous: PreviousDataset | None,
    ) -> None:
        self._job = job
        self._config = job.config
        self._teacher = teacher
        self._directory = directory
        self._previous = previous
        self._opened = ExitStack()
        self._corpus = Corpus.load(job.ws.artifacts.directory(job.corpus))
        self._titles = {document.document_id: document.title for document in self._corpus.documents}
        self._writer: Writer = make_writer(job.config, teacher, self._titles, job.prompts)
        self._contexts = ContextBuilder(
            self._corpus.chunks,
            self._titles,
            job.config,
            teacher=teacher,
            prompts=job.prompts,
            prompt_version=job.prompt_version,
            teacher_model=teacher.model_identity,
        )
        self._searcher: PassageSearcher = job.searcher or Searcher.open(job.ws, job.index)
        self._asked = AskedBefore(job.config.questions.near_duplicate_threshold)
        self._said = SaidBefore()
        self._taking: TakingOver | None = None
        self._files = self._opened.enter_context(
            DatasetFiles(directory, job.config, self._corpus.documents, self._contexts.one_more)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def make(self) -> Made:
        """Make, or take over, every row; the files are complete afterwards."""
        pairs = self._job.pairs
        made = self._from_teacher() if pairs is None else self._from_user(pairs)
        if self._teacher.is_exhausted:
            made.notice = (
                f"The budget was spent when {self._files.num_rows} of the "
                f"{self._config.num_questions} rows wanted were there"
            )
        if self._config.tasks.pretraining:
            self._files.add_texts(self._corpus.documents, made.plan.split_of)
        self._opened.close()
        return made

    def parts(self, *, is_user: bool = False, directory: Path | None = None) -> Synthesis:
        """What makes candidates and rows, with a funnel of their steps.

        Args:
            is_user: whether questions are the user's, which need not pass as well-formed.
            directory: where rejects are written; `None` keeps none but samples.
        """
        job, config = self._job, self._config
        before = question_gates(config, asked=self._asked)
        if is_user:
            before = [gate for gate in before if gate.step not in _TRUSTED_QUESTION_STEPS]
        before.append(Uncontaminated(job.decontaminator))
        found = [] if is_user else round_trip_gates(config)
        after = (
            []
            if is_user
            else answer_gates(config, self._teacher, job.prompts, self._titles, said=self._said)
        )
        first, last = (USER_STEPS, ()) if is_user else ((), (_WANTED,))
        steps = (*first, *steps_of([*before, *found, *after]), *CONTEXT_STEPS, *last)
        return Synthesis(
            config=config,
            teacher=self._teacher,
            writer=self._writer,
            searcher=self._searcher,
            question_gates=before,
            round_trip_gates=found,
            answer_gates=after,
            contexts=self._contexts,
            verdicts=job.verdicts,
            decontaminator=job.decontaminator,
            funnel=self._opened.enter_context(Funnel(steps, directory)),
            rows=self._files,
            progress=job.ws.progress,
        )

    def split(self, askable: Collection[str]) -> SplitPlan:
        """Where every document belongs; each split has one of `askable`."""
        known = self._previous.known_splits(self._config) if self._previous else {}
        plan = split_documents(
            self._corpus.documents, self._config.split, self._config.seed, known, askable
        )
        self._contexts.hold_out(plan.split_of)
        return plan

    def askable(self) -> set[str]:
        """The documents that the writer finds something to ask about in."""
        found: set[str] = set()
        for chunk in self._corpus.chunks:
            if chunk.document_id not in found and self._writer.topics(chunk, "train"):
                found.add(chunk.document_id)
        return found

    def begin(self, parts: Synthesis) -> Beginning:
        """Split the documents, take over what still holds, and say what is to be made."""
        config, by_split = self._config, self._files.by_split
        plan = self.split(self.askable())
        planner = TopicPlanner(config, self._writer, self._corpus.chunks, plan.split_of)
        wanted = wanted_rows(config.num_questions, config.split)
        queues = {split: planner.queue(split) for split in SPLITS}
        kept_questions = None
        if self._previous is not None:
            taking = self._taking_over(self._previous, plan, parts)
            if config.split.keep_evaluation_set:
                kept_questions = taking.keep_test_questions()
            if by_split["test"]:
                wanted["test"] = 0  # the questions are frozen: none is added
            if config.incremental:
                taking.carry_over(wanted, LEARNT if by_split["test"] else SPLITS)
                queues = taking.open_topics(planner)
        missing = {split: max(0, wanted[split] - by_split[split]) for split in SPLITS}
        return Beginning(plan, queues, missing, kept_questions)

    def _from_teacher(self) -> Made:
        parts = self.parts(directory=self._directory)
        with phase(self._job.ws.progress, "Synthesizing", self._config.num_questions, "rows"):
            beginning = self.begin(parts)
            made = self._made(beginning.plan, parts.funnel)
            made.kept_questions = beginning.kept_questions
            for splits in (("test",), LEARNT):
                missing = {split: beginning.missing[split] for split in splits}
                share = _budget_share(splits, beginning.missing)
                with _settled_heap():
                    Rounds(parts, beginning.queues, missing, max_spent_share=share).run()
        return made

    def begin_with_pairs(self, pairs: UserPairs, parts: Synthesis) -> BeginningWithPairs:
        """Find the passages of the user's pairs, split their documents, see what still holds."""
        located = locate_pairs(
            pairs, self._corpus, self._searcher, self._config, parts.funnel, parts.progress
        )
        plan = self.split({item.document_id for item in located})
        kept: dict[str, RaftRow] = {}
        if self._previous is not None and self._config.incremental:
            kept = self._taking_over(self._previous, plan, parts).rows_by_id()
        return BeginningWithPairs(plan, located, kept)

    def _from_user(self, pairs: UserPairs) -> Made:
        parts = self.parts(is_user=True, directory=self._directory)
        num_pairs = min(self._config.num_questions, len(pairs.pairs))
        with phase(self._job.ws.progress, "Synthesizing", num_pairs, "rows"):
            beginning = self.begin_with_pairs(pairs, parts)
            located, split_of = beginning.located, beginning.plan.split_of
            rows = UserRows(parts, beginning.kept)
            # Test questions first: what they ask is kept out of training.
            for splits in (("test",), LEARNT):
                rows.run([i for i in located if split_of[i.document_id] in splits], split_of)
        made = self._made(beginning.plan, parts.funnel)
        made.num_carried = rows.num_kept
        made.details.update(
            num_without_reasoning=rows.num_without_reasoning,
            ignored_fields=list(pairs.ignored_fields),
        )
        return made

    def _taking_over(
        self, previous: PreviousDataset, plan: SplitPlan, parts: Synthesis
    ) -> TakingOver:
        self._taking = TakingOver(
            previous, self._corpus, plan, self._job.recipe, parts, self._asked, self._said
        )
        return self._taking

    def _made(self, plan: SplitPlan, funnel: Funnel) -> Made:
        return Made(
            corpus=self._corpus,
            plan=plan,
            funnel=funnel,
            files=self._files,
            previous=self._previous.ref if self._previous else None,
            num_carried=self._taking.num_rows if self._taking else 0,
            retired=self._taking.retired if self._taking else Counter(),
            guarded=self._contexts.guarded,
            not_made=self._contexts.num_not_made,
        )


@contextmanager
def _settled_heap() -> Iterator[None]:
    """Keep the garbage collector off what is there already: the corpus, which stays to the end.

    Candidates and rows come and go by the million beside it, hardly any in cycles; walking through
    all of it again and again took a fifth of the stage's CPU time.
    """
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*_RARE_COLLECTIONS)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _budget_share(splits: Sequence[Split], missing: Mapping[Split, int]) -> float:
    """Where in the budget the making of some splits' rows ends, so that there are others too."""
    if "train" in splits:  # comes last
        return 1.0
    return sum(missing[split] for split in splits) / max(1, sum(missing.values()))
