"""The review page: complete, alone in the world, and deaf to what documents say."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.raft.review.page import render_page, write_page
from pipeline_lib.raft.review.sample import draw_sample
from pipeline_lib.raft.review.verdicts import Verdict, record_verdicts
from pipeline_lib.raft.rows import Quote, RaftRow, ReasoningStep
from pipeline_lib.stage import Workspace

Row = Callable[..., RaftRow]
Page = Callable[..., str]
HOSTILE = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(1)> {{ 7 * 7 }} \u2028"


class Elements(HTMLParser):
    """The elements of a page with their attributes and texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self.found.append(("", {}, ""))

    def handle_data(self, data: str) -> None:
        tag, attributes, text = self.found[-1] if self.found else ("", {}, "")
        self.found[-1:] = [(tag, attributes, text + data)]

    def texts(self, tag: str) -> list[str]:
        return [text for found, _, text in self.found if found == tag]


@pytest.fixture
def page(workspace: Workspace, publish_rows: Callable[..., ArtifactRef]) -> Page:
    """The page of a sample of all rows."""

    def make(*rows: RaftRow, **options: Any) -> str:
        return render_page(draw_sample(workspace, publish_rows(rows), num_rows=99, **options))

    return make


def data_of(page: str) -> dict[str, Any]:
    [text] = [
        text for tag, attributes, text in Elements(page).found if attributes.get("id") == "data"
    ]
    return json.loads(text)


def test_everything_that_a_reviewer_needs_is_in_the_page(page: Page, row: Row) -> None:
    data = data_of(page(row(0), row(1, target="refuse")))
    assert data["dataset"].startswith("dataset/demo/")
    shown = {each["id"]: each for each in data["rows"]}
    first = shown["row-0"]
    assert (first["question"], first["answer"]) == ("What does otter 0 eat?", "crabs")
    assert first["steps"] == [
        {"text": "The page says:", "quote": "Otter 0 eats crabs.", "number": 1, "doc": 2}
    ]
    oracle, distractor = first["passages"]
    # Cut where the quote and the answer begin and end.
    assert oracle["pieces"] == [
        ["Otter 0 eats ", [1], False],
        ["crabs", [1], True],
        [".", [1], False],
        [" It sleeps on its back.", [], False],
    ]
    assert distractor["pieces"] == [["Seals eat fish.", [], False]]
    assert shown["row-1"]["passages"][0]["number"] is None
    assert shown["row-1"]["target"] == "refuse"


def test_quotes_are_cut_by_characters_not_by_what_a_browser_counts(page: Page, row: Row) -> None:
    text = "🦦🦦 eats crabs."
    passage = row(0).context[1].model_copy(update={"text": text})
    quote = Quote(chunk_id="chunk-0", start=3, end=14, text="eats crabs.")
    reasoning = (ReasoningStep(text="", quote=quote),)
    changed = row(0, context=(passage,), reasoning=reasoning, final_answer="5")
    [shown] = data_of(page(changed))["rows"]
    assert shown["passages"][0]["pieces"] == [["🦦🦦 ", [], False], ["eats crabs.", [1], False]]


def test_an_answer_is_marked_in_whole_words_only(page: Page, row: Row) -> None:
    [shown] = data_of(page(row(0, final_answer="crab")))["rows"]
    assert not any(is_answer for _, _, is_answer in shown["passages"][0]["pieces"])


def test_what_documents_say_is_shown_and_does_nothing(page: Page, row: Row) -> None:
    passages = tuple(p.model_copy(update={"title": HOSTILE}) for p in row(0).context)
    hostile = page(row(0, question=HOSTILE, final_answer=HOSTILE, context=passages))
    elements = Elements(hostile)
    assert len(elements.texts("script")) == 2
    assert not elements.texts("img")
    [shown] = data_of(hostile)["rows"]
    assert shown["question"] == shown["answer"] == HOSTILE
    assert shown["passages"][0]["title"] == HOSTILE


def test_the_page_may_load_nothing_and_run_no_script_but_its_own(page: Page, row: Row) -> None:
    html = page(row(0))
    elements = Elements(html)
    [policy] = [
        attributes["content"] or ""
        for tag, attributes, _ in elements.found
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    script = elements.texts("script")[1]
    [style] = elements.texts("style")
    for directive, text in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert not re.search(r"https?://", html)
    assert not [a for _, a, _ in elements.found if a.keys() & {"src", "style", "onclick"}]
    # Elements are made from text: there is no way from a string to markup.
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)


def test_an_earlier_verdict_is_filled_in(
    workspace: Workspace, page: Page, row: Row, verdict: Callable[..., Verdict]
) -> None:
    edit = verdict(0, "edit", edited_answer="urchins", comment="both", reviewer="Ada")
    record_verdicts(workspace, "demo", [edit])
    [shown] = data_of(page(row(0), with_reviewed=True))["rows"]
    assert shown["verdict"] == {
        "decision": "edit",
        "edited_question": "",
        "edited_answer": "urchins",
        "comment": "both",
        "reviewer": "Ada",
    }


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no browser")
def test_a_browser_shows_the_row_without_an_error(page: Page, row: Row, tmp_path: Path) -> None:
    path = tmp_path / "review.html"
    path.write_text(page(row(0, final_answer=HOSTILE), row(1)), encoding="utf-8")
    shown = subprocess.run(
        [
            str(CHROMIUM),
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000"),
            *("--dump-dom", path.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    ).stdout
    assert "0 of 2" in shown
    assert '<mark class="" data-quote="1">' in shown
    assert "eat? <button" in shown
    assert shown.count("<script") == 2


def test_the_page_is_one_file_in_utf_8(
    workspace: Workspace, row: Row, publish_rows: Callable[..., ArtifactRef], tmp_path: Path
) -> None:
    sample = draw_sample(
        workspace, publish_rows([row(0, final_answer="Krabben, groß")]), num_rows=1
    )
    write_page(sample, tmp_path / "review.html")
    assert "Krabben, groß" in (tmp_path / "review.html").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.glob("*")].count("review.html") == 1
