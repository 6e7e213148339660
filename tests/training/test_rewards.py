"""Rewards: what texts of known worth get, and that rewards which cannot tell are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.errors import ConfigError, RewardError
from pipeline_lib.raft.rendering import REFUSAL_ANSWER, render_target
from pipeline_lib.raft.rows import RaftRow, ReasoningStep
from pipeline_lib.training.rewards import scoring
from pipeline_lib.training.rewards.scoring import REWARDS, rewards_of, weights_of
from pipeline_lib.training.rewards.separation import check_rewards, measure_rewards
from pipeline_lib.training.rewards.spoiling import FAULTS, spoilt_answers
from tests.raft.made_rows import QUOTED, make_row, quote, refusing_row

EQUAL = dict.fromkeys(REWARDS, 0.2)
ANSWER = "<answer>By hearing</answer>"
REFUSED = f"<answer>{REFUSAL_ANSWER}</answer>"
VOLES = "A kestrel sees the traces of voles in ultraviolet light."


def rows() -> list[RaftRow]:
    """Four to answer, one of them with a number, and two to refuse."""
    answers = ["By hearing", "In barns", "It eats 3 mice", "Whole"]
    made = [make_row(row_id=f"r{n}", final_answer=text) for n, text in enumerate(answers)]
    return [*made, *(refusing_row(row_id=f"n{n}") for n in range(2))]


@pytest.mark.parametrize("name", REWARDS)
def test_a_rows_own_target_is_worth_1(name: str) -> None:
    for row in rows():
        assert REWARDS[name](row, render_target(row)) == 1.0


@pytest.mark.parametrize(
    ("said", "worth"),
    [
        ("By hearing", 1.0),
        ("by  hearing.", 1.0),  # as SQuAD compares
        ("It is by hearing", pytest.approx(2 / 3)),  # 2 words of 4 against 2
        ("By sight", 0.5),
        ("Not by hearing", 0.0),  # contradicts
        ("Nothing known", 0.0),
        (REFUSAL_ANSWER, 0.0),
        ("", 0.0),
    ],
)
def test_answer_is_the_token_f1_and_0_for_a_contradiction(said: str, worth: float) -> None:
    assert REWARDS["answer"](make_row(), f"<answer>{said}</answer>") == worth


def test_a_wrong_number_is_wrong_however_many_words_agree() -> None:
    row = make_row(final_answer="It eats 3 mice in a night")
    assert REWARDS["answer"](row, "<answer>It eats 4 mice in a night</answer>") == 0.0


@pytest.mark.parametrize(
    ("quotes", "verbatim", "grounded"),
    [
        (f'<quote doc="2">{QUOTED}</quote>', 1.0, 1.0),
        (f'<quote doc="1">{QUOTED}</quote>', 0.0, 1.0),  # the oracle's words, wrongly cited
        (f"<quote>{QUOTED}</quote>", 0.0, 1.0),  # not cited
        (f'<quote doc="1">{VOLES}</quote>', 1.0, 0.0),  # a distractor's
        (f'<quote doc="2">{QUOTED}</quote><quote doc="1">{VOLES}</quote>', 1.0, 0.5),
        ('<quote doc="2">Its ears are at different heights</quote>', 0.0, 0.0),
        ('<quote doc="2">Its ears sit at different it hears where</quote>', 0.0, 0.0),  # stitched
        ('<quote doc="2">ears</quote>', 0.0, 0.0),  # one word proves nothing
        ('<quote doc="2">Its ears sit</quote>', 1.0, 1.0),
        ("", 0.0, 0.0),
    ],
)
def test_verbatim_and_grounded_are_shares_of_the_quotes(
    quotes: str, verbatim: float, grounded: float
) -> None:
    row, text = make_row(), f"{quotes}\n{ANSWER}"
    assert REWARDS["verbatim"](row, text) == verbatim
    assert REWARDS["grounded"](row, text) == grounded


def test_a_quote_may_be_as_short_as_one_of_the_rows_own() -> None:
    step = ReasoningStep(text="", quote=quote(text="ears"))
    row = make_row(reasoning=(step,))
    assert REWARDS["verbatim"](row, f'<quote doc="2">mice</quote>\n{ANSWER}') == 1.0


def test_where_nothing_can_be_proved_no_quote_is_best() -> None:
    row = refusing_row()
    quoting = f'<quote doc="1">{VOLES}</quote>\n{REFUSED}'
    assert (REWARDS["verbatim"](row, REFUSED), REWARDS["grounded"](row, REFUSED)) == (1, 1)
    assert (REWARDS["verbatim"](row, quoting), REWARDS["grounded"](row, quoting)) == (1, 0)


@pytest.mark.parametrize(
    ("row", "text", "worth"),
    [
        (make_row(), ANSWER, 1.0),
        (make_row(), REFUSED, 0.0),
        (make_row(), "By hearing", 0.0),  # neither answered nor refused
        (refusing_row(), REFUSED, 1.0),
        (refusing_row(), ANSWER, 0.0),
        (refusing_row(), "", 0.0),
    ],
)
def test_refusal_is_right_exactly_where_the_oracle_is_absent(
    row: RaftRow, text: str, worth: float
) -> None:
    assert REWARDS["refusal"](row, text) == worth


@pytest.mark.parametrize(
    ("text", "worth"),
    [
        (ANSWER, 1.0),
        (f"It hears.\n{ANSWER}\n", 1.0),
        (f'It hears: <quote doc="2">{QUOTED}</quote> {ANSWER}', 1.0),
        ("It hears <\\quote a mouse.\n" + ANSWER, 1.0),  # escaped, as prompts are
        ("By hearing", 0.0),
        ("<answer>By hearing", 0.0),  # cut off
        (f"{ANSWER} I hope this helps.", 0.0),
        (f"{ANSWER}\n{ANSWER}", 0.0),
        ("<answer></answer>", 0.0),
        (f'<quote doc="2">{QUOTED} {ANSWER}', 0.0),  # not closed
        (f'<quote doc="9">{QUOTED}</quote> {ANSWER}', 0.0),  # there are four
        (f"<quote>{QUOTED}</quote> {ANSWER}", 0.0),
    ],
)
def test_format_is_all_or_nothing(text: str, worth: float) -> None:
    assert REWARDS["format"](make_row(), text) == worth


@given(text=st.text() | st.sampled_from(["<answer>", "<quote doc='1'>", "</quote></answer>"]))
def test_whatever_is_written_every_reward_is_from_0_to_1(text: str) -> None:
    for row in (make_row(), refusing_row()):
        assert all(0 <= worth <= 1 for worth in rewards_of(row, text, EQUAL).values())


def test_the_total_is_the_weighted_sum() -> None:
    weights = weights_of({"answer": 3, "format": 1, "refusal": 0})
    assert weights == {"answer": 0.75, "format": 0.25}
    assert rewards_of(make_row(), "<answer>By hearing", weights) == {
        "answer": 1.0,
        "format": 0.0,
        "total": 0.75,
    }


def test_a_weight_for_no_reward_is_refused_with_the_rewards_there_are() -> None:
    with pytest.raises(ConfigError, match="politeness") as raised:
        weights_of({"politeness": 1})
    assert "grounded" in str(raised.value.hint)


def test_every_fault_can_be_shown_and_each_reward_sees_those_it_must() -> None:
    shown = set()
    for row in rows():
        others = [other for other in rows() if other.row_id != row.row_id]
        for spoilt in spoilt_answers(row, others, seed=7):
            shown.add(spoilt.fault)
            for name in FAULTS[spoilt.fault]:
                assert REWARDS[name](row, spoilt.text) < 1.0, (spoilt, name)
    assert shown == set(FAULTS)


def test_the_rewards_tell_references_from_spoilt_answers() -> None:
    measured = check_rewards(rows(), EQUAL, 0.9, seed=7)
    assert {name: separation.share for name, separation in measured.items()} == dict.fromkeys(
        (*REWARDS, "total"), 1.0
    )


def test_a_tie_counts_half() -> None:
    def is_long(row: RaftRow, text: str) -> float:
        return float(len(text) > 20)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(scoring.REWARDS, "format", is_long)  # type: ignore[arg-type]
        measured = measure_rewards([make_row()], {"format": 1.0}, seed=7)
    # Cut before the answer, cut inside it, and repeated: all of them are long.
    assert [one.fault for one in measured["format"].comparisons] == [
        "cut",
        "cut_inside_answer",
        "repeated",
    ]
    assert measured["format"].share == 0.5


def test_a_reward_that_cannot_tell_is_refused_with_its_worst_examples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = REWARDS["grounded"]
    monkeypatch.setitem(scoring.REWARDS, "grounded", lambda row, text: 1 - right(row, text))  # type: ignore[arg-type]
    with pytest.raises(RewardError, match=r"'grounded' puts the reference first in only") as raised:
        check_rewards(rows(), EQUAL, 0.9, seed=7)
    assert "'grounded' puts the reference first in only 0.0% of" in raised.value.message
    assert ": 1.00, and its reference only 0.00" in raised.value.message


def test_a_reward_that_no_row_can_show_is_refused() -> None:
    with pytest.raises(RewardError, match="'verbatim' cannot be checked"):
        check_rewards([refusing_row()], weights_of({"verbatim": 1}), 0.9, seed=7)
