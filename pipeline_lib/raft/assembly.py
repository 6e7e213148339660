"""From drafts to rows: the context, whether the oracle is in it, and what the target then is.

Everything random about a row is drawn from the seed and the row's id, so a row does not change when
other rows come or go.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.corpus.schema import Chunk
from pipeline_lib.raft.distractors import Distractor, DistractorPool, Evidence
from pipeline_lib.raft.drafts import Draft, Failure
from pipeline_lib.raft.rendering import REFUSAL_ANSWER
from pipeline_lib.raft.rows import Passage, Provenance, RaftRow


class RowAssembler:
    """Gives drafts their contexts.

    A context has the oracle and `num_distractors` passages more. Where a training row loses its
    oracle (with probability 1 - `oracle_probability`), one more distractor takes its place, so that
    the number of passages gives nothing away, and the target changes: `refuse` teaches the fixed
    refusal, `memorise` the bare answer. Neither quotes or reasons about what is not there.

    Args:
        chunks: the whole corpus.
        titles: document id to title.
        config: numbers, probabilities and the seed.
        teacher_model: identity of the teacher, for provenance.
        prompt_version: of its prompts, for provenance.
    """

    def __init__(
        self,
        chunks: Sequence[Chunk],
        titles: Mapping[str, str],
        config: SynthesizeConfig,
        *,
        teacher_model: str,
        prompt_version: str,
    ) -> None:
        self._titles = titles
        self._config = config
        self._teacher_model = teacher_model
        self._prompt_version = prompt_version
        self._pool = DistractorPool(chunks, random_fraction=config.random_distractor_fraction)
        self._pool.check_size(config.num_distractors + 1 + (config.oracle_probability < 1))

    @property
    def guarded(self) -> Counter[str]:
        """Passages kept out of contexts because they might answer, by reason."""
        return self._pool.guarded

    def assemble(self, draft: Draft) -> RaftRow | Failure:
        """The finished row."""
        row_id = make_row_id(draft.question, draft.oracle.chunk_id)
        rng = random.Random(f"{self._config.seed}:{row_id}")  # noqa: S311 (seeded on purpose)
        is_present = draft.split != "train" or rng.random() < self._config.oracle_probability
        quotes = tuple(step.quote.text for step in draft.written.steps if step.quote is not None)
        distractors = self._pool.draw(
            self._config.num_distractors + (not is_present),
            Evidence(draft.oracle, draft.written.final_answer, quotes),
            draft.hits,
            rng,
        )
        if distractors is None:
            return Failure("context", "too_few_distractors")
        passages = [self._distractor(distractor) for distractor in distractors]
        if is_present:
            passages.append(self._oracle(draft))
        rng.shuffle(passages)
        target: Literal["answer", "memorise", "refuse"] = (
            "answer" if is_present else self._config.oracle_absent_target
        )
        return RaftRow(
            row_id=row_id,
            split=draft.split,
            question=draft.question,
            context=tuple(passages),
            oracle_chunk_id=draft.oracle.chunk_id,
            oracle_document_id=draft.oracle.document_id,
            oracle_present=is_present,
            target=target,
            reasoning=draft.written.steps if is_present else (),
            final_answer=REFUSAL_ANSWER if target == "refuse" else draft.written.final_answer,
            provenance=Provenance(
                question_source=draft.source,
                answer_source=draft.source,
                teacher_model=self._teacher_model,
                prompt_version=self._prompt_version,
                seed=self._config.seed,
            ),
        )

    def _oracle(self, draft: Draft) -> Passage:
        hit = next((hit for hit in draft.hits if hit.covers(draft.oracle.chunk_id)), None)
        return Passage(
            chunk_id=draft.oracle.chunk_id,
            document_id=draft.oracle.document_id,
            title=self._titles[draft.oracle.document_id],
            text=draft.oracle.text,
            role="oracle",
            origin="oracle",
            rank=hit.rank if hit else None,
            score=hit.score if hit else None,
        )

    def _distractor(self, distractor: Distractor) -> Passage:
        chunk = distractor.chunk
        return Passage(
            chunk_id=chunk.chunk_id,
            document_id=chunk.document_id,
            title=self._titles[chunk.document_id],
            text=chunk.text,
            role="distractor",
            origin=distractor.origin,
            rank=distractor.rank,
            score=distractor.score,
        )


def make_row_id(question: str, oracle_chunk_id: str) -> str:
    """The row's name: the same question about the same passage has it in every run."""
    return hashlib.sha256(f"{oracle_chunk_id}\0{question}".encode()).hexdigest()[:32]
