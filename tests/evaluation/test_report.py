"""The report is complete, self-contained, and safe with any text."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from pipeline_lib.evaluation.metrics import ARM_METRICS
from pipeline_lib.evaluation.report import (
    TrainingLog,
    format_difference,
    format_value,
    render_report,
)
from pipeline_lib.raft.funnel import RejectSample

NASTY = "<script>alert('x')</script> & \"quotes\" {{ 7 * 7 }} \N{RIGHT-TO-LEFT OVERRIDE}</div>"
_VOID = {"meta", "link", "br", "img", "input", "hr"}


class Outline(HTMLParser):
    """Checks nesting and collects tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.ids: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if "id" in dict(attrs):
            self.ids.append(dict(attrs)["id"])
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data

    def count(self, tag: str, **attributes: str) -> int:
        return sum(
            name == tag and all(found.get(k.rstrip("_")) == v for k, v in attributes.items())
            for name, found in self.tags
        )


def outline(html: str) -> Outline:
    parser = Outline()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    assert len(set(parser.ids)) == len(parser.ids)
    return parser


@pytest.fixture
def html(records, make_content):
    return render_report(make_content(records))


def test_the_page_is_well_formed_and_shows_every_part(html):
    page = outline(html)
    for spec in ARM_METRICS.values():
        assert spec.title in page.text
    for text in (
        "Fine-tuned",
        "Recall@K",
        "training: 2.000 at step 1",
        "validation: 1.750 at step 2",
        "6 no question mark",
        "dataset/demo/1111",
        "model of candidate",
        "2026-11-22 09:30 UTC",
    ):
        assert text in page.text
    assert page.count("details", class_="question") == 4


def test_the_page_requests_nothing(html):
    assert "default-src 'none'" in html
    page = outline(html)
    assert not [tag for tag, _ in page.tags if tag in ("link", "img", "iframe", "object", "base")]
    for _tag, attributes in page.tags:
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
    assert "url(" not in html
    assert "@import" not in html


def test_the_policy_allows_exactly_the_pages_own_script(html):
    [script] = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html
    assert not re.search(r"\son[a-z]+=", html)


def test_hostile_text_is_shown_not_run(make_record, make_answer, score_records, make_content):
    answers = [
        make_answer("base", NASTY, text=NASTY),
        make_answer("candidate", NASTY, quotes=[(NASTY, "absent")]),
    ]
    record = make_record("r1", answers, question=NASTY, reference=NASTY)
    [passage, other] = record.passages
    hostile = passage.model_copy(update={"title": NASTY, "text": NASTY, "source_uri": NASTY})
    [scored] = score_records([record.model_copy(update={"passages": (hostile, other)})])
    content = make_content(
        [scored],
        name=NASTY,
        models={"base": NASTY, "candidate": NASTY},
        funnel={"steps": [{"name": NASTY, "kept": 1, "dropped": {NASTY: 2}}]},
        rejects=[
            RejectSample(
                stage=NASTY,
                reason=NASTY,
                num_rejects=2,
                question=NASTY,
                chunk_id="c",
                document_id="d",
                kind="factual",
                text=NASTY,
            )
        ],
        config={NASTY: NASTY},
        libraries={NASTY: NASTY},
    )
    html = render_report(content)
    page = outline(html)
    assert page.count("script") == 1
    assert "<script>alert" not in html
    assert page.text.count("alert('x')") >= 12
    assert "{{ 7 * 7 }}" in page.text
    assert page.count("mark", class_="absent") >= 2


def test_a_value_is_marked_better_only_where_the_difference_is_clear(
    make_record, make_answer, score_records, make_content
):
    def page(candidate_is_right):
        records = [
            make_record(
                f"r{number}",
                [
                    make_answer("base", "blue"),
                    make_answer("candidate", "red" if candidate_is_right(number) else "blue"),
                ],
            )
            for number in range(8)
        ]
        return render_report(make_content(score_records(records)))

    assert "clearly better" in page(lambda number: True)
    assert "clearly better" not in page(lambda number: False)
    assert "answers better than its base model" in page(lambda number: True)
    assert "do not tell" in page(lambda number: False)


def test_questions_carry_what_the_filters_ask_for(html):
    flags = re.findall(r'<details class="question" data-differ="(\w+)" data-invalid="(\w+)"', html)
    assert flags == [("yes", "no"), ("no", "yes"), ("yes", "no"), ("no", "no")]


def test_quotes_are_marked_in_passages_and_the_oracle_is_named(html):
    page = outline(html)
    assert '<mark class="verbatim" title="verbatim quote">A fox is red.</mark>' in html
    assert '<mark class="misattributed" title="misattributed quote">A dog is brown.</mark>' in html
    assert page.count("li", class_="passage oracle") == 3
    assert page.text.count("oracle passage not retrieved") == 1


def test_every_stage_of_the_training_has_its_curves_and_says_of_what(records, make_content):
    trainings = [
        TrainingLog(objective="sft", entries=[{"step": 1, "loss": 2.0}]),
        TrainingLog(objective="grpo", entries=[{"step": 1, "loss": 0.1, "reward": 0.25}]),
    ]
    page = outline(render_report(make_content(records, trainings=trainings)))
    assert page.text.index("Stage sft") < page.text.index("Stage grpo")
    assert "Loss on answer tokens, in nats per token, by optimizer step." in page.text
    assert "Mean reward of answers, at most 1, by optimizer step." in page.text
    assert page.text.count("training: 2.000 at step 1") == 1
    assert page.text.count("training: 0.250 at step 1") == 1
    one = outline(render_report(make_content(records, trainings=trainings[:1])))
    assert "Stage sft" not in one.text


def test_a_model_without_log_and_a_dataset_without_funnel_still_have_a_report(
    records, make_content
):
    without = TrainingLog(objective="sft", entries=[])
    page = outline(
        render_report(make_content(records, trainings=[without], funnel=None, rejects=[]))
    )
    assert "holds no training log" in page.text
    assert "holds no funnel" in page.text


def test_a_long_evaluation_shows_its_first_questions_and_says_so(
    records, make_content, monkeypatch
):
    monkeypatch.setattr("pipeline_lib.evaluation.report._MOST_QUESTIONS_SHOWN", 2)
    page = outline(render_report(make_content(records)))
    assert page.count("details", class_="question") == 2
    assert "The first 2 of 4 questions" in page.text


@pytest.mark.parametrize(
    ("metric", "value", "expected", "signed"),
    [
        ("token_f1", 0.12345, "0.123", "+0.123"),
        ("token_f1", -0.5, "-0.500", "\N{MINUS SIGN}0.500"),
        ("token_f1", 0.0, "0.000", "0.000"),
        ("bleu", 12.345, "12.35", "+12.35"),
        ("answer_perplexity", 1234.5, "1234", "+1234"),
    ],
)
def test_numbers_have_sensible_digits_and_signs(metric, value, expected, signed):
    assert format_value(value, ARM_METRICS[metric]) == expected
    assert format_difference(value, ARM_METRICS[metric]) == signed
