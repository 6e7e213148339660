"""Rows of other tasks, made of RAFT rows."""

from __future__ import annotations

import pytest

from pipeline_lib.config.contexts import TaskConfig
from pipeline_lib.raft.derived.tasks import derive_task_rows, refusal_context
from pipeline_lib.raft.rendering import REFUSAL_ANSWER, render_row_prompt, render_target
from pipeline_lib.raft.rows import RaftRow, ReasoningStep, Task, read_rows, write_rows
from tests.raft.made_rows import QUOTED, drawing, make_row, passage, quote, refusing_row

ALL = TaskConfig(relevance=1, ranking=1, quotes=1, refusal=1, closed_book=1)


def derive(
    row: RaftRow, config: TaskConfig = ALL, *draws: str, seed: int = 7
) -> dict[Task, RaftRow]:
    rows = derive_task_rows(row, config, seed=seed, one_more=drawing(*draws or ("stork", "heron")))
    return {each.task: each for each in rows}


def test_every_task_can_be_made_of_an_answered_row() -> None:
    made = derive(make_row())
    assert list(made) == ["relevance", "ranking", "quotes", "refusal", "closed_book"]
    assert {task: render_target(row) for task, row in made.items()} == {
        "relevance": "<answer>2</answer>",
        "ranking": "<answer>2, 3, 1</answer>",
        "quotes": f'<quote doc="2">{QUOTED}</quote>',
        "refusal": f"<answer>{REFUSAL_ANSWER}</answer>",
        "closed_book": "<answer>By hearing</answer>",
    }


def test_a_row_of_another_task_names_its_base_and_keeps_question_split_and_provenance() -> None:
    base = make_row()
    for row in derive(base).values():
        assert row.base_row_id == base.row_id
        assert (row.question, row.split, row.provenance) == (
            base.question,
            base.split,
            base.provenance,
        )
    ids = {row.row_id for row in derive(base).values()} | {base.row_id}
    keys = {row.row_key for row in derive(base).values()} | {base.row_key}
    assert len(ids) == len(keys) == 6


def test_ranking_shows_only_oracles_and_passages_with_a_rank() -> None:
    """A random passage has no rank: whether it is worse than the last one found is unknown."""
    ranking = derive(make_row())["ranking"]
    assert [each.chunk_id for each in ranking.context] == ["kestrel", "owl", "bat"]
    assert "ranking" not in derive(make_row("owl", "heron"))


def test_made_up_passages_take_no_part_where_relevance_is_asked() -> None:
    """Nothing in a passage with a changed fact says that it is wrong."""
    made = derive(make_row("fake", "owl", "bat"))
    for task in ("relevance", "ranking", "refusal"):
        assert "fake" not in {each.chunk_id for each in made[task].context}
    assert render_target(made["relevance"]) == "<answer>1</answer>"
    assert [each.chunk_id for each in made["quotes"].context] == ["fake", "owl", "bat"]


def test_where_no_passage_answers_relevance_is_none() -> None:
    made = derive(refusing_row())
    assert render_target(made["relevance"]) == "<answer>none</answer>"
    assert set(made) == {"relevance"}


def test_all_of_several_oracles_are_relevant_and_first() -> None:
    row = make_row(
        "bat",
        "heron",
        "owl",
        context=(
            passage("bat"),
            passage("heron", role="oracle", origin="oracle"),
            passage("owl"),
        ),
        oracle_chunk_ids=("owl", "heron"),
        oracle_document_ids=("d-owl", "d-heron"),
    )
    made = derive(row, ALL, "stork", "kestrel")
    assert render_target(made["relevance"]) == "<answer>2, 3</answer>"
    assert render_target(made["ranking"]) == "<answer>3, 2, 1</answer>"
    assert [each.chunk_id for each in made["refusal"].context] == ["bat", "stork", "kestrel"]


def test_a_refusals_context_is_as_long_as_the_rows_with_others_in_the_oracles_place() -> None:
    row = make_row("bat", "owl", "fake")
    context = refusal_context(row, drawing("heron", "stork"))
    assert context is not None
    assert [each.chunk_id for each in context] == ["bat", "heron", "stork"]


def test_no_refusal_where_the_corpus_has_too_few_other_passages() -> None:
    assert "refusal" not in derive(make_row("bat", "owl", "fake"), ALL, "heron")


def test_what_is_refused_already_or_answered_from_memory_is_not_refused_again() -> None:
    memorised = refusing_row(target="memorise", final_answer="By hearing")
    assert "refusal" not in derive(refusing_row())
    assert set(derive(memorised)) == {"relevance", "closed_book"}
    assert derive(memorised)["closed_book"].final_answer == "By hearing"


def test_closed_book_shows_no_passage_and_quotes_none() -> None:
    row = derive(make_row())["closed_book"]
    assert row.context == row.quotes == ()
    assert "<document" not in render_row_prompt(row)[1]["content"]


def test_the_quotes_task_keeps_every_quote_and_no_reasoning() -> None:
    first = "The barn owl hunts mice at night."
    steps = (
        ReasoningStep(text="One.", quote=quote(text=first)),
        ReasoningStep(text="Nothing."),
        ReasoningStep(text="Two.", quote=quote()),
    )
    row = derive(make_row(reasoning=steps))["quotes"]
    assert render_target(row) == f'<quote doc="2">{first}</quote> <quote doc="2">{QUOTED}</quote>'
    assert "quotes" not in derive(make_row(reasoning=()))


def test_a_context_group_is_kept_only_with_the_same_context() -> None:
    made = derive(make_row(context_group="g"))
    groups = {task: row.context_group for task, row in made.items()}
    assert groups == {
        "relevance": "g",
        "ranking": "",
        "quotes": "g",
        "refusal": "",
        "closed_book": "",
    }


@pytest.mark.parametrize("task", ["relevance", "ranking", "quotes", "refusal", "closed_book"])
def test_shares_are_met_and_each_task_draws_for_itself(task: Task) -> None:
    config = TaskConfig(**{task: 0.25})
    rows = [make_row(row_id=f"r{number}") for number in range(400)]
    drawn = {row.row_id for row in rows if derive(row, config)}
    assert 70 <= len(drawn) <= 130  # 100 expected, 3.5 standard deviations are 30
    with_others = {
        row.row_id for row in rows if task in derive(row, ALL.model_copy(update={task: 0.25}))
    }
    assert with_others == drawn
    assert {row.row_id for row in rows if derive(row, config, seed=8)} != drawn


def test_no_share_no_rows() -> None:
    assert derive(make_row(), TaskConfig()) == {}


def test_derived_rows_survive_the_file(tmp_path) -> None:
    rows = list(derive(make_row()).values())
    write_rows(tmp_path / "rows.parquet", rows)
    assert read_rows(tmp_path / "rows.parquet") == rows
