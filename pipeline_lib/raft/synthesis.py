"""The steps from a topic to a finished row, with all that they need.

    topics -> questions -> question gates -> search -> round trip
           -> answers -> answer gates -> contexts -> verdicts of reviewers -> rows

What invents questions (`raft.rounds`), what takes them from the user (`raft.from_user`) and the
estimate before a run (`raft.estimate`) all go through here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.generation.base import MeteredGenerator
from pipeline_lib.progress import Progress
from pipeline_lib.raft.candidates import Candidate, Gate, Rejection, Topic, Writer, Written
from pipeline_lib.raft.contexts.assembly import ContextBuilder
from pipeline_lib.raft.dataset.decontamination import Decontaminator
from pipeline_lib.raft.funnel import Funnel, Reject
from pipeline_lib.raft.gates.build import run_gates
from pipeline_lib.raft.output import DatasetFiles
from pipeline_lib.raft.review.verdicts import Verdicts
from pipeline_lib.raft.rows import RaftRow
from pipeline_lib.retrieval.search import PassageSearcher

CONTEXT_STEPS = ("context", "review")
"""Enough distractors; no objection of a reviewer."""
_WRITER_STEPS = ("answer", "quotes", "reasoning")
"""Steps at which a writer itself may refuse its answer, in their order."""
_HELD_OUT_FACTOR = 2
"""Of what is retrieved for a training question, up to half may be of documents that are held out.
"""
_SPARE_HITS = 8
"""Retrieved beyond what is needed, for the guards to leave out."""


@dataclass
class Synthesis:
    """Everything one synthesis works with."""

    config: SynthesizeConfig
    teacher: MeteredGenerator
    writer: Writer
    searcher: PassageSearcher
    question_gates: Sequence[Gate]
    """Before the search; `round_trip_gates` come after it."""
    round_trip_gates: Sequence[Gate]
    answer_gates: Sequence[Gate]
    contexts: ContextBuilder
    verdicts: Verdicts
    decontaminator: Decontaminator
    funnel: Funnel
    rows: DatasetFiles
    progress: Progress
    """One phase is running; rows are reported as they are kept."""

    def ask(self, topics: Sequence[Topic]) -> list[Candidate]:
        """Questions about topics that pass all gates, with what retrieval finds for them."""
        asked = []
        for result in self.writer.ask(topics):
            if isinstance(result, Candidate):
                asked.append(result)
            else:
                candidate, why = result
                self.reject(candidate, "question", why.reason, why.text)
        return self.find(self.check_questions(asked))

    def check_questions(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those that pass the gates before the search."""
        return run_gates(self.question_gates, candidates, self.funnel)

    def find(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Search for candidates, and keep those whose passages are found."""
        if not candidates:
            return []
        self.progress.note(f"searching: {len(candidates)} questions")
        found = self.searcher.search(
            [candidate.question for candidate in candidates],
            limit=search_depth(self.config),
            config=self.config.retrieval,
        )
        with_hits = [
            replace(candidate, hits=tuple(hits))
            for candidate, hits in zip(candidates, found, strict=True)
        ]
        return run_gates(self.round_trip_gates, with_hits, self.funnel)

    def finish(self, candidates: Sequence[Candidate]) -> Iterator[tuple[Candidate, RaftRow]]:
        """Answer candidates, check the answers, and give the good ones their contexts."""
        answered = []
        for candidate, result in zip(candidates, self.writer.answer(candidates), strict=True):
            if isinstance(result, Written):
                answered.append(replace(candidate, written=result))
            else:
                self._reject_answer(candidate, result)
        yield from self.contextualize(run_gates(self.answer_gates, answered, self.funnel))

    def contextualize(self, candidates: Sequence[Candidate]) -> Iterator[tuple[Candidate, RaftRow]]:
        """Rows of answered candidates, as reviewers would have them."""
        for candidate, built in zip(candidates, self.contexts.build(candidates), strict=True):
            if isinstance(built, Rejection):
                self.reject(candidate, *_parts(built))
                continue
            self.funnel.keep("context")
            reviewed = self.verdicts.apply(built)
            if isinstance(reviewed, Rejection):
                self.reject(candidate, *_parts(reviewed))
                continue
            self.funnel.keep("review")
            yield candidate, reviewed

    def keep(self, row: RaftRow) -> None:
        """A row that is wanted: written, and if it tests, kept away from training.

        What is kept away is its question and its evidence, not its whole passages: documents of one
        body share phrases everywhere, and those prove nothing.
        """
        self.rows.add(row)
        self.progress.advance()
        if row.split == "test":
            self.decontaminator.protect(row.question, [quote.text for quote in row.quotes])

    def _reject_answer(self, candidate: Candidate, why: Rejection) -> None:
        """An answer that its own writer refuses has passed the steps before the one it names."""
        step = why.step if why.step in _WRITER_STEPS else _WRITER_STEPS[0]
        for passed in _WRITER_STEPS[: _WRITER_STEPS.index(step)]:
            self.funnel.keep(passed)
        self.reject(candidate, step, why.reason, why.text)

    def reject(self, candidate: Candidate, step: str, reason: str, text: str = "") -> None:
        """Count a candidate that ends here, and keep it for looking at."""
        self.funnel.drop(Reject.of(candidate, Rejection(step, reason, text)))


def search_depth(config: SynthesizeConfig) -> int:
    """How many passages to retrieve so that enough distractors survive the guards."""
    wanted = config.contexts.num_distractors + 2
    return max(_HELD_OUT_FACTOR * wanted + _SPARE_HITS, config.gates.round_trip_top_k)


def _parts(rejection: Rejection) -> tuple[str, str, str]:
    return rejection.step, rejection.reason, rejection.text
