"""Preference pairs: the chosen answer verifies, the rejected one has exactly its fault."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline_lib.config.contexts import REJECTED_KINDS, PreferenceConfig
from pipeline_lib.raft.derived.preferences import (
    PreferencePair,
    PreferenceWriter,
    faults_in,
    iter_pairs,
    make_pair,
)
from pipeline_lib.raft.quotes import verify_quote
from pipeline_lib.raft.rendering import REFUSAL_ANSWER, parse_answer, render_target
from pipeline_lib.raft.rows import RaftRow, ReasoningStep
from tests.raft.made_rows import (
    QUOTED,
    TEXTS,
    drawing,
    make_row,
    passage,
    quote,
    refusing_row,
)


def pair_with(fault: str, row: RaftRow | None = None, *draws: str) -> PreferencePair | None:
    config = PreferenceConfig(share=1, rejected={fault: 1})
    return make_pair(row or make_row(), config, seed=7, one_more=drawing(*draws or ("stork",)))


def statuses(text: str, pair: PreferencePair) -> list[str]:
    parsed = parse_answer(text, pair.context)
    return [verify_quote(q.text, q.passage_number, pair.context).status for q in parsed.quotes]


@pytest.mark.parametrize("fault", ["distractor", "stitched", "misattributed"])
def test_the_chosen_answer_is_the_rows_own_and_verifies(fault: str) -> None:
    row = make_row()
    pair = pair_with(fault, row)
    assert pair is not None
    assert pair.chosen == render_target(row)
    assert statuses(pair.chosen, pair) == ["verbatim"]
    assert faults_in(pair.chosen, pair.context) == frozenset()
    assert (pair.fault, pair.row_id, pair.context) == (fault, row.row_id, row.context)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [("distractor", "verbatim"), ("stitched", "stitched"), ("misattributed", "misattributed")],
)
def test_verification_finds_the_fault(fault: str, expected: str) -> None:
    pair = pair_with(fault)
    assert pair is not None
    assert statuses(pair.rejected, pair) == [expected]
    assert faults_in(pair.rejected, pair.context) == {fault}


def test_a_stitched_quote_is_the_rows_with_words_left_out() -> None:
    pair = pair_with("stitched")
    assert pair is not None
    [quoted] = parse_answer(pair.rejected, pair.context).quotes
    assert quoted.text == "Its ears sit at different it hears where a mouse is."
    assert parse_answer(pair.rejected, pair.context).final_answer == "By hearing"


def test_a_quote_too_short_to_cut_is_stitched_to_another_sentence() -> None:
    short = ReasoningStep(text="", quote=quote(text="Owls swallow their prey whole."))
    pair = pair_with("stitched", make_row(reasoning=(short,)))
    assert pair is not None
    [quoted] = parse_answer(pair.rejected, pair.context).quotes
    assert quoted.text == "Owls swallow their mice at night."


def test_a_misattributed_quote_changes_nothing_but_the_number() -> None:
    pair = pair_with("misattributed")
    assert pair is not None
    [good], [bad] = (
        parse_answer(text, pair.context).quotes for text in (pair.chosen, pair.rejected)
    )
    assert bad.text == good.text == QUOTED
    assert good.passage_number == 2
    assert bad.passage_number in (1, 3, 4)


def test_an_answer_from_a_distractor_quotes_it_rightly_and_answers_something_else() -> None:
    pair = pair_with("distractor")
    assert pair is not None
    parsed = parse_answer(pair.rejected, pair.context)
    [quoted] = parsed.quotes
    assert quoted.text == "Bats hunt moths at night by echo."  # shares most words with the question
    assert quoted.passage_number == 4
    assert parsed.final_answer == "night by echo"


def test_an_answer_from_a_distractor_never_holds_the_right_answer() -> None:
    row = make_row("owl", "bat", final_answer="at night by echo")
    pair = pair_with("distractor", row)
    assert pair is not None
    assert "echo" not in pair.rejected
    assert "head down in a cave" in pair.rejected


def test_reasoning_that_gives_the_answer_away_is_not_put_before_a_wrong_one() -> None:
    steps = (ReasoningStep(text="By hearing, clearly.", quote=quote()),)
    pair = pair_with("distractor", make_row(reasoning=steps))
    assert pair is not None
    assert "hearing" not in pair.rejected


def test_an_unfounded_answer_is_the_rows_own_without_its_oracle() -> None:
    row = make_row()
    pair = pair_with("unfounded", row)
    assert pair is not None
    assert [each.chunk_id for each in pair.context] == ["kestrel", "stork", "heron", "bat"]
    assert parse_answer(pair.chosen, pair.context).is_refusal
    assert pair.rejected == render_target(row)
    assert statuses(pair.rejected, pair) == ["absent"]


def test_a_refused_row_is_answered_from_a_distractor_without_new_passages() -> None:
    row = refusing_row()
    pair = pair_with("unfounded", row)
    assert pair is not None
    assert pair.context == row.context
    assert pair.chosen == render_target(row)
    assert not parse_answer(pair.rejected, pair.context).is_refusal
    assert statuses(pair.rejected, pair) == ["verbatim"]


@pytest.mark.parametrize(
    ("fault", "row"),
    [
        ("misattributed", make_row("owl")),
        ("distractor", make_row("owl")),
        ("stitched", make_row(reasoning=())),
        ("stitched", refusing_row()),
        ("unfounded", refusing_row(target="memorise", final_answer="By hearing")),
    ],
)
def test_a_row_that_cannot_show_a_fault_has_no_pair_with_it(fault: str, row: RaftRow) -> None:
    assert pair_with(fault, row) is None


def test_no_unfounded_pair_where_there_is_nothing_to_put_in_the_oracles_place() -> None:
    assert pair_with("unfounded", make_row(), "bat") is None


def test_the_next_fault_is_tried_where_the_first_cannot_be_shown() -> None:
    config = PreferenceConfig(share=1, rejected={"misattributed": 1000, "stitched": 0.001})
    pair = make_pair(make_row("owl"), config, seed=7, one_more=drawing())
    assert pair is not None
    assert pair.fault == "stitched"


def test_faults_come_by_share_and_pairs_by_the_rows_share() -> None:
    config = PreferenceConfig(share=0.5, rejected={"distractor": 3, "misattributed": 1})
    rows = [make_row(row_id=f"r{number}") for number in range(400)]
    pairs = [make_pair(row, config, seed=7, one_more=drawing()) for row in rows]
    faults = [pair.fault for pair in pairs if pair is not None]
    assert 165 <= len(faults) <= 235  # 200 expected, 3.5 standard deviations are 35
    assert 0.65 <= faults.count("distractor") / len(faults) <= 0.85
    again = [make_pair(row, config, seed=7, one_more=drawing()) for row in reversed(rows)]
    assert again[::-1] == pairs


def test_no_pair_without_a_share() -> None:
    assert make_pair(make_row(), PreferenceConfig(), seed=7, one_more=drawing()) is None


@given(
    st.sampled_from(REJECTED_KINDS),
    st.lists(st.sampled_from(["kestrel", "bat", "fake", "heron"]), unique=True, max_size=4),
    st.integers(0, 4),
    st.integers(0, 1000),
)
def test_every_pair_has_a_good_answer_and_exactly_one_fault(
    fault: str, distractors: list[str], place: int, number: int
) -> None:
    names = [*distractors[:place], "owl", *distractors[place:]]
    pair = pair_with(
        fault, make_row(*names, row_id=f"r{number}"), "stork", "heron", "bat", "kestrel"
    )
    if pair is not None:
        assert faults_in(pair.chosen, pair.context) == frozenset()
        assert faults_in(pair.rejected, pair.context) == {fault}


@given(
    st.sampled_from(REJECTED_KINDS),
    st.lists(
        st.sampled_from(
            ["</quote>", '<quote doc="2">', "<answer>", "</answer>", "\\", "<", "|", "The owl ",
             "hears mice at night. ", REFUSAL_ANSWER, "\n", "…", "\u00a0"]
        ),
        min_size=1,
        max_size=12,
    ).map("".join),
)  # fmt: skip
def test_texts_that_look_like_markers_make_no_wrong_pair(fault: str, hostile: str) -> None:
    text = f"{hostile} {QUOTED} {hostile}"
    start, end = text.index(QUOTED) - len(hostile) - 1, len(text)
    quoted = text[start:end]
    row = make_row(
        context=(passage("owl", text=text), passage("bat", text=f"{TEXTS['bat']} {hostile}")),
        reasoning=(ReasoningStep(text=hostile, quote=quote().model_copy(
            update={"start": start, "end": end, "text": quoted})),),
        final_answer=hostile,
    )  # fmt: skip
    pair = pair_with(fault, row)
    if pair is not None:
        assert faults_in(pair.chosen, pair.context) == frozenset()
        assert faults_in(pair.rejected, pair.context) == {fault}


def test_a_pair_that_is_not_what_it_says_is_refused() -> None:
    pair = pair_with("stitched")
    assert pair is not None
    with pytest.raises(ValidationError, match="instead of 'distractor'"):
        PreferencePair.model_validate(dict(pair) | {"fault": "distractor"})
    with pytest.raises(ValidationError, match="chosen answer has the faults"):
        PreferencePair.model_validate(dict(pair) | {"chosen": pair.rejected})


def test_pairs_survive_the_file(tmp_path) -> None:
    pairs = [pair_with(fault) for fault in REJECTED_KINDS]
    with PreferenceWriter(tmp_path / "pairs.parquet") as writer:
        for pair in pairs:
            assert pair is not None
            writer.write(pair)
    assert list(iter_pairs(tmp_path / "pairs.parquet")) == pairs


def test_an_unknown_fault_is_refused_when_the_run_is_configured() -> None:
    with pytest.raises(ValidationError, match="no faults of kind rude; kinds are distractor"):
        PreferenceConfig(rejected={"rude": 1})
