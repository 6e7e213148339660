"""HTML elements as Markdown."""

from __future__ import annotations

import time

import pytest
from lxml import etree, html

from pipeline_lib.corpus.parsing.markup import to_markdown


@pytest.mark.parametrize(
    ("page", "markdown"),
    [
        ("<h2>A <em>title</em></h2><p>One<br/>two.</p>", "## A title\n\nOne\ntwo."),
        ("<p>one</p>loose<p>two</p>", "one\n\nloose\n\ntwo"),
        ("<ul><li>a</li><li>b<ul><li>c</li></ul></li><li>d</li></ul>", "- a\n- b\n  - c\n- d"),
        ("<ol start='3'><li>c</li><li>d</li></ol>", "3. c\n4. d"),
        ("<ul><li>a</li></ul><p>text</p><ul><li>b</li></ul>", "- a\n\ntext\n\n- b"),
        ("<ul><li><p>one</p><p>more</p></li></ul>", "- one\n\nmore"),
        ("<blockquote><p>said</p><p>again</p></blockquote>", "> said\n\n> again"),
        ("<p>Use <code>a_b</code>.</p>", "Use `a_b`."),
        (
            "<pre><code class='language-sh'>if x\n  y\n</code></pre>",
            "```sh\nif x\n  y\n```",
        ),
        (
            "<table><caption>Zones</caption><tr><th>zone</th><th>days</th></tr>"
            "<tr><td>A<p>b</p></td><td>3</td></tr></table>",
            "Zones\n\n| zone | days |\n| --- | --- |\n| A b | 3 |",
        ),
        (
            "<table><tr><td>a<table><tr><td>in</td><td>ner</td></tr></table></td><td>b</td></tr>"
            "</table>",
            "| a in ner | b |\n| --- | --- |",
        ),
        ("<p>a<script>f()</script>b<!-- c --><style>d</style></p>", "ab"),
        ("<p>See <a href='x'>the terms</a> <img alt='logo' src='y'/></p>", "See the terms logo"),
        ("<p>2024 was good.</p><ul><li>a</li></ul>", "2024 was good.\n\n- a"),
        ("", ""),
    ],
)
def test_elements(page: str, markdown: str) -> None:
    assert to_markdown(html.fromstring(f"<html><body>{page}</body></html>")) == markdown


def test_xhtml_with_a_namespace() -> None:
    page = "<html xmlns='http://www.w3.org/1999/xhtml'><head><title>x</title></head><body><p>a</p></body></html>"
    assert to_markdown(etree.fromstring(page)) == "a"


def test_nesting_costs_no_stack() -> None:
    root = innermost = etree.Element("body")
    for _ in range(5_000):
        innermost = etree.SubElement(innermost, "div")
    innermost.text = "deep inside"
    start = time.monotonic()
    assert to_markdown(root) == "deep inside"
    assert time.monotonic() - start < 5
