"""From answered questions to rows: the context, whether the oracle is in it, and the target.

Everything random about a row is drawn from the seed and the row's id, so a row does not change when
other rows come or go. Labels were made from the oracle passages before any of this, and stay with
them whatever the context then holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.errors import ConfigError
from pipeline_lib.generation.base import MeteredGenerator
from pipeline_lib.raft.candidates import Candidate, Rejection
from pipeline_lib.raft.contexts.adversarial import Changer
from pipeline_lib.raft.contexts.contradicting import Contradictor
from pipeline_lib.raft.contexts.distractors import Choice, Distractor, DistractorPool
from pipeline_lib.raft.contexts.drafting import Drafter, Remapped
from pipeline_lib.raft.contexts.finishing import Finisher
from pipeline_lib.raft.contexts.groups import ContextGroup, make_groups
from pipeline_lib.raft.contexts.guard import AnswerGuard
from pipeline_lib.raft.contexts.judging import DistractorJudge
from pipeline_lib.raft.contexts.mix import (
    MADE_UP_ORIGINS,
    DistractorOrigin,
    origin_counts,
    origin_shares,
)
from pipeline_lib.raft.keys import unit_interval
from pipeline_lib.raft.prompts.library import PromptLibrary
from pipeline_lib.raft.quotes import fold
from pipeline_lib.raft.rows import Passage, RaftRow, Split

_Counts = Mapping[DistractorOrigin, int]


class ContextBuilder:
    """Gives answered candidates their contexts.

    A context has the oracles and `num_distractors` passages more. Where a training row loses its
    oracles (with probability 1 - `oracle_probability`), further distractors take their places, so
    that the number of passages gives nothing away, and the target changes: `refuse` teaches the
    fixed refusal, `memorise` the bare answer. Neither quotes or reasons about what is not there.
    A question that the corpus does not answer is refused beside the passage it was written about.

    Made-up passages stand in training rows only, and only beside their oracle: alone, a passage
    that says the wrong thing would make a refusal the wrong lesson.

    Args:
        chunks: the whole corpus.
        titles: document id to title.
        config: numbers, shares and the seed.
        teacher: writes contradicting passages and judges distractors, where these are configured.
        prompts: templates for both.
        prompt_version: of the templates, for provenance.
        teacher_model: identity of the teacher, for provenance.

    Raises:
        InputError: the corpus has too few passages for a row.
        ConfigError: the configuration needs a chat teacher that is not there.
    """

    def __init__(
        self,
        chunks: Sequence[Chunk],
        titles: Mapping[str, str],
        config: SynthesizeConfig,
        *,
        teacher: MeteredGenerator | None,
        prompts: PromptLibrary,
        prompt_version: str,
        teacher_model: str,
    ) -> None:
        self._config = config.contexts
        self._seed = config.seed
        self._pool = DistractorPool(chunks, seed=config.seed)
        self._pool.check_size(self._num_needed)
        self._drafter = Drafter(config, prompt_version, teacher_model)
        self._finisher = Finisher(titles, order=self._config.order, seed=config.seed)
        self._changer = Changer(self._pool.training_chunks, seed=config.seed)
        chat = _chat_teacher(config, teacher)
        self._contradictor = Contradictor(chat, prompts, titles, config)
        judge = chat if self._config.judge_distractors else None
        self._judge = DistractorJudge(judge, prompts, titles)
        self.guarded: Counter[str] = Counter()
        """Passages kept out of contexts because they might answer, by reason."""
        self.num_not_made: Counter[str] = Counter()
        """Made-up passages wanted that could not be had, and were replaced, by origin."""

    @property
    def _num_needed(self) -> int:
        """Passages that a training row takes, its oracle included where that is absent."""
        return self._config.num_distractors + 1 + (self._config.oracle_probability < 1)

    def hold_out(self, split_of: Mapping[str, Split]) -> None:
        """From now on, show training rows no passage of validation and test documents.

        Args:
            split_of: document id to split; documents that are not in it serve every split.

        Raises:
            InputError: the other documents have too few passages for a row.
        """
        self._pool.hold_out(split_of)
        self._pool.check_size(self._num_needed)

    def build(self, candidates: Sequence[Candidate]) -> list[RaftRow | Rejection]:
        """The finished rows, in order; a rejection of the step `context` where one cannot be.

        Args:
            candidates: each with its answer. Only those of one call can share contexts
                (`questions_per_context`).
        """
        drafts = [self._drafter.draft(candidate) for candidate in candidates]
        groups = make_groups(
            drafts,
            questions_per_context=self._config.questions_per_context,
            num_distractors=self._config.num_distractors,
        )
        rows = self._rows(groups)
        return [rows[draft.row_id] for draft in drafts]

    def redraw(self, remapped: Sequence[Remapped]) -> list[RaftRow | Rejection]:
        """Held-out rows with new contexts, in order; all else of them stays, names included."""
        drafts = [self._drafter.redraft(item) for item in remapped]
        rows = self._rows([ContextGroup((draft,)) for draft in drafts])
        return [rows[draft.row_id] for draft in drafts]

    def one_more(self, row: RaftRow) -> Passage | None:
        """One more random distractor for a finished row; `None` when the corpus has none left.

        It differs from all passages that the row's context has, so several can be drawn by adding
        each to the row before asking for the next.
        """
        oracles = list(filter(None, map(self._pool.chunk, row.oracle_chunk_ids)))
        oracle_texts = [oracle.text for oracle in oracles]
        guard = AnswerGuard(
            oracle_texts,
            "" if row.target == "refuse" else row.final_answer,
            [quote.text for quote in row.quotes],
            near_duplicate_threshold=self._config.near_duplicate_threshold,
        )
        present = {passage.chunk_id for passage in row.context} | set(row.oracle_chunk_ids)
        texts = set(map(fold, [*oracle_texts, *(passage.text for passage in row.context)]))
        for chunk in self._pool.walk(f"{row.row_id}:more"):
            is_new = chunk.chunk_id not in present and fold(chunk.text) not in texts
            if is_new and self._pool.serves(chunk, row.split) and guard.danger(chunk.text) is None:
                return self._finisher.distractor(Distractor.of(chunk, "random"))
        return None

    def _rows(self, groups: Sequence[ContextGroup]) -> dict[str, RaftRow | Rejection]:
        """The rows of all groups, by row id."""
        rows: dict[str, RaftRow | Rejection] = {}
        for group, choice in zip(groups, self._choices(groups), strict=True):
            if choice is None:
                missing = Rejection("context", "too_few_distractors")
                rows |= {draft.row_id: missing for draft in group.drafts}
                continue
            self.guarded += choice.guarded
            rows |= {row.row_id: row for row in self._finisher.rows(group, choice)}
        return rows

    def _choices(self, groups: Sequence[ContextGroup]) -> list[Choice | None]:
        """Distractors for each group, chosen again for as long as the judge objects."""
        counts = [self._counts(group) for group in groups]
        made_up = self._made_up(groups, counts)
        choices: list[Choice | None] = [None] * len(groups)
        self._judge.forget()
        pending = list(range(len(groups)))
        while pending:
            for place in pending:
                choices[place] = self._pool.choose(
                    groups[place], counts[place], made_up[place], self._judge
                )
            shown = [
                (groups[place], choice)
                for place in pending
                if (choice := choices[place]) is not None
            ]
            refused = self._judge.ask(shown)
            pending = [place for place in pending if groups[place].key in refused]
        return choices

    def _counts(self, group: ContextGroup) -> _Counts:
        return origin_counts(
            origin_shares(self._config.distractors, group.split, has_oracle=bool(group.hosts)),
            group.num_passages(self._config.num_distractors) - len(group.required),
            unit_interval(self._seed, group.key, "mix"),
        )

    def _made_up(
        self, groups: Sequence[ContextGroup], counts: Sequence[_Counts]
    ) -> list[list[Distractor]]:
        """Adversarial and contradicting passages for each group, as many as could be had."""
        contradicting = self._contradictor.write(
            [group for group, each in zip(groups, counts, strict=True) if each.get("contradicting")]
        )
        made: list[list[Distractor]] = []
        for group, each in zip(groups, counts, strict=True):
            written = contradicting.get(group.key)
            of_group = self._changer.passages(group, each.get("adversarial", 0))
            if written is not None:
                of_group.append(written)
            had = Counter(distractor.origin for distractor in of_group)
            for origin in sorted(MADE_UP_ORIGINS):
                missing = each.get(origin, 0) - had[origin]
                if missing > 0:
                    self.num_not_made[origin] += missing
            made.append(of_group)
        return made


def _chat_teacher(
    config: SynthesizeConfig, teacher: MeteredGenerator | None
) -> MeteredGenerator | None:
    """The teacher where it is needed.

    Raises:
        ConfigError: it is needed, but cannot be instructed.
    """
    wanted = {
        "contradicting distractors": config.contexts.distractors.get("contradicting", 0) > 0,
        "judge_distractors": config.contexts.judge_distractors,
    }
    needing = [name for name, is_wanted in wanted.items() if is_wanted]
    if not needing:
        return None
    if teacher is None or config.teacher.resolved_writer != "chat":
        raise ConfigError(
            f"{' and '.join(needing)} need a teacher that follows instructions",
            hint="Set teacher.kind 'endpoint', or teacher.writer 'chat' for a local model of 7B "
            "parameters or more; or leave them out of contexts.",
        )
    return teacher
