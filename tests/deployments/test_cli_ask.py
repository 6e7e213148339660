"""`raftline ask`: the answer, then each quote with its verdict, then the passages."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from deployments.cli.main import app
from pipeline_lib import answering
from pipeline_lib.answering import Answer, AnsweredPassage, AnsweredQuote
from pipeline_lib.config import AnswerConfig
from pipeline_lib.stage import Workspace

runner = CliRunner()

PASSAGE = AnsweredPassage(
    number=1,
    chunk_id="c1",
    document_id="d1",
    title="The with statement",
    source_uri="sample:with",
    text="The with statement is used to wrap the execution of a block.",
    score=0.75,
)


def _quote(status: str, text: str, source_uri: str | None = None) -> AnsweredQuote:
    return AnsweredQuote(
        text=text,
        status=status,
        passage_number=1,
        chunk_id="c1" if source_uri else None,
        title="The with statement" if source_uri else None,
        source_uri=source_uri,
    )


class Answerer:
    """Gives one prepared answer and remembers what it was asked."""

    def __init__(self, **fields: object) -> None:
        self.fields = {
            "text": "It wraps [blocks].",
            "final_answer": "It wraps [blocks].",
            "is_refusal": False,
            "quotes": (),
            "passages": (PASSAGE,),
            "model": "model/demo/0123",
            "index": "index/demo/4567",
        } | fields
        self.asked: AnswerConfig | None = None

    def __call__(self, ws: Workspace, config: AnswerConfig) -> Answer:
        self.asked = config
        return Answer.model_validate({"question": config.question, **self.fields})


def _answers(monkeypatch: pytest.MonkeyPatch, **fields: object) -> Answerer:
    answerer = Answerer(**fields)
    monkeypatch.setattr(answering, "answer", answerer)
    return answerer


def test_the_answer_comes_first_then_quotes_with_verdict_and_source(settings, monkeypatch) -> None:
    quotes = (
        _quote("verbatim", "used to wrap the execution", "sample:with"),
        _quote("absent", "nobody said this"),
    )
    _answers(monkeypatch, quotes=quotes)
    result = runner.invoke(app, ["ask", "What does with do?"])
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [
        "It wraps [blocks].",
        "answered by model/demo/0123",
        "",
        "Quotes",
        " ✓ verbatim      “used to wrap the execution”",
        "                 The with statement (sample:with)",
        " ✗ absent        “nobody said this”",
        "",
        "Passages",
        " 1. The with statement  sample:with",
        "    " + PASSAGE.text,
    ]


def test_options_reach_the_library(settings, monkeypatch) -> None:
    answerer = _answers(monkeypatch)
    arguments = ["--model", "base", "--name", "docs", "--passages", "7"]
    assert runner.invoke(app, ["ask", "What?", *arguments]).exit_code == 0
    assert answerer.asked == AnswerConfig(
        question="What?", model="base", name="docs", context_size=7
    )


def test_a_refusal_is_marked(settings, monkeypatch) -> None:
    _answers(monkeypatch, final_answer="I cannot tell.", is_refusal=True)
    output = runner.invoke(app, ["ask", "What?"]).stdout
    assert output.startswith("The passages do not answer this: I cannot tell.\n")
    assert "The answer quotes nothing." in output


def test_text_without_a_final_answer_is_shown_as_it_is(settings, monkeypatch) -> None:
    _answers(monkeypatch, final_answer=None, text="Rambling on [/bold]")
    output = runner.invoke(app, ["ask", "What?"]).stdout
    assert "gave no final answer" in output
    assert "Rambling on [/bold]" in output


def test_json_is_nothing_but_json(settings, monkeypatch) -> None:
    _answers(monkeypatch, quotes=(_quote("stitched", "a … b"),))
    answer = json.loads(runner.invoke(app, ["ask", "What?", "--json"]).stdout)
    assert answer["final_answer"] == "It wraps [blocks]."
    assert answer["quotes"][0]["status"] == "stitched"
    assert answer["passages"][0]["source_uri"] == "sample:with"
