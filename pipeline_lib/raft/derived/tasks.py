"""Rows of other training tasks, made of the same question and passages as a RAFT row.

Made-up passages (`adversarial`, `contradicting`) contradict the oracle, and nothing in them says
that they are wrong. A model can be asked to answer in spite of them, but not which passages are
relevant, how to order them, or to refuse because they answer nothing: these tasks do without them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pipeline_lib.config.contexts import TaskConfig
from pipeline_lib.raft.keys import derived_row_id, derived_row_key, unit_interval
from pipeline_lib.raft.rendering import REFUSAL_ANSWER
from pipeline_lib.raft.rows import Passage, RaftRow, ReasoningStep, Target, Task

OneMore = Callable[[RaftRow], Passage | None]
"""Draws one more distractor for a row: a passage of the corpus that is not in its context, none of
its oracles, and does not answer its question; `None` when there is none left."""

_Context = tuple[Passage, ...]


def derive_task_rows(
    row: RaftRow, config: TaskConfig, *, seed: int, one_more: OneMore
) -> list[RaftRow]:
    """The rows of other tasks made of one `answer` row.

    Each task draws for itself, from nothing but seed and row id. A row that a task cannot be made
    of is passed over: ranking and quotes want the oracle in the context, closed-book answers a
    question whose answer the row holds, refusals enough other passages.

    Args:
        row: of the task `answer`.
        config: the tasks' shares.
        seed: of the dataset.
        one_more: asked for refusals only.
    """
    shares: dict[Task, float] = {
        "relevance": config.relevance,
        "ranking": config.ranking,
        "quotes": config.quotes,
        "refusal": config.refusal,
        "closed_book": config.closed_book,
    }
    drawn = [
        task for task, share in shares.items() if unit_interval(seed, row.row_id, task) < share
    ]
    return [made for task in drawn for made in _derive(row, task, one_more)]


def refusal_context(row: RaftRow, one_more: OneMore) -> _Context | None:
    """A row's context with other passages in the place of all that answer its question.

    `None` where the corpus has too few: a shorter context would tell that the oracle is missing.
    """
    context = list(row.context)
    shown = row
    for place, passage in enumerate(row.context):
        if passage.role == "oracle" or _is_made_up(passage):
            other = one_more(shown)
            if other is None:
                return None
            context[place] = other
            shown = shown.model_copy(update={"context": (*shown.context, other)})
    return tuple(context)


def _derive(row: RaftRow, task: Task, one_more: OneMore) -> Iterator[RaftRow]:
    """The row of `task`, where there can be one."""
    real = tuple(passage for passage in row.context if not _is_made_up(passage))
    if task == "relevance" and real:
        yield _row(row, task, real, "answer")
    elif task == "ranking" and row.oracle_present:
        known = tuple(p for p in real if p.role == "oracle" or p.rank is not None)
        if any(passage.role == "distractor" for passage in known):
            yield _row(row, task, known, "answer")
    elif task == "quotes" and row.quotes:
        quotes = [ReasoningStep(text="", quote=quote) for quote in row.quotes]
        yield _row(row, task, row.context, "answer", reasoning=quotes)
    elif task == "refusal" and row.oracle_present:
        without = refusal_context(row, one_more)
        if without is not None:
            yield _row(row, task, without, "refuse", final_answer=REFUSAL_ANSWER)
    elif task == "closed_book" and row.target != "refuse":
        yield _row(row, task, (), "memorise", final_answer=row.final_answer)


def _is_made_up(passage: Passage) -> bool:
    return passage.origin in ("adversarial", "contradicting")


def _row(
    base: RaftRow,
    task: Task,
    context: _Context,
    target: Target,
    *,
    reasoning: Sequence[ReasoningStep] = (),
    final_answer: str = "",
) -> RaftRow:
    return RaftRow.model_validate(
        dict(base)
        | {
            "row_id": derived_row_id(base.row_id, task),
            "row_key": derived_row_key(base.row_key, task, context),
            "task": task,
            "context": context,
            "oracle_present": any(passage.role == "oracle" for passage in context),
            "target": target,
            "reasoning": tuple(reasoning),
            "final_answer": final_answer,
            "context_group": base.context_group if context == base.context else "",
            "base_row_id": base.row_id,
        }
    )
