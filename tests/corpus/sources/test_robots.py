"""robots.txt: the examples of RFC 9309 and what sites write beside it."""

from __future__ import annotations

import pytest

from pipeline_lib.corpus.sources.robots import Robots

SITE = "https://example.org"


def allows(text: str, path: str, agent: str = "raftline") -> bool:
    return Robots(text, agent).allows(SITE + path)


RFC_EXAMPLE = """
User-Agent: *
Disallow: *.gif$
Disallow: /example/
Allow: /publications/

User-Agent: foobot
Disallow:/
Allow:/example/page.html
Allow:/example/allowed.gif

User-Agent: barbot
User-Agent: bazbot
Disallow: /example/page.html

User-Agent: quxbot
"""


@pytest.mark.parametrize(
    ("agent", "path", "expected"),
    [
        ("raftline", "/example/page.html", False),
        ("raftline", "/publications/x", True),
        ("raftline", "/a.gif", False),
        ("raftline", "/a.gif?x", True),
        ("raftline", "/elsewhere", True),
        ("foobot", "/example/page.html", True),
        ("foobot", "/example/allowed.gif", True),
        ("foobot", "/", False),
        ("barbot", "/example/page.html", False),
        ("bazbot", "/example/page.html", False),
        ("bazbot", "/example/", True),
        ("quxbot", "/example/page.html", True),
    ],
)
def test_the_example_of_the_rfc(agent: str, path: str, expected: bool) -> None:
    assert allows(RFC_EXAMPLE, path, agent) is expected


@pytest.mark.parametrize(
    ("rules", "path", "expected"),
    [
        ("Allow: /example/page/\nDisallow: /example/page/disallowed.gif",
         "/example/page/disallowed.gif", False),
        ("Disallow: /p\nAllow: /p", "/page", True),
        ("Disallow:", "/x", True),
        ("Disallow: /", "/", False),
        ("Disallow: /*.pdf$", "/docs/a.pdf", False),
        ("Disallow: /*.pdf$", "/docs/a.pdf.html", True),
        ("Disallow: /a*b*c", "/a1b2c3", False),
        ("Disallow: /a*b*c", "/a1c2b3", True),
        ("Disallow: /*?session=", "/x?session=1", False),
        ("Disallow: /caf\u00e9", "/caf%C3%A9", False),
        ("Disallow: /a%3cd.html", "/a%3Cd.html", False),
        ("Disallow: /%7ejoe", "/~joe/", False),
        ("Disallow: /x # comment", "/x", False),
        ("disallow : /x", "/x", False),
        ("Disallow: /x\nSitemap: https://example.org/s.xml\nDisallow: /y", "/y", False),
    ],
)  # fmt: skip
def test_rules(rules: str, path: str, expected: bool) -> None:
    assert allows(f"User-agent: *\n{rules}\n", path) is expected


def test_groups_that_name_the_crawler_are_joined_and_beat_the_star() -> None:
    text = """User-agent: *
Disallow: /
User-agent: Raftline/1.0
Disallow: /a
User-agent: other
Disallow: /c
User-agent: raftline
Disallow: /b
"""
    paths = ("/a", "/b", "/c", "/d")
    assert [allows(text, path) for path in paths] == [False, False, True, True]


@pytest.mark.parametrize("text", ["", "<html>not found</html>", "Disallow: /\n", "\x00\xff:::\n"])
def test_without_a_group_everything_is_allowed(text: str) -> None:
    assert allows(text, "/x")


def test_the_delay_is_that_of_the_crawlers_group() -> None:
    text = "User-agent: *\nCrawl-delay: 9\n\nUser-agent: raftline\nCrawl-delay: 2.5\n"
    assert Robots(text, "raftline").delay_seconds == 2.5
    assert Robots(text, "other").delay_seconds == 9
    assert Robots("User-agent: *\nCrawl-delay: soon\n", "x").delay_seconds == 0


def test_a_hostile_pattern_takes_no_time() -> None:
    text = f"User-agent: *\nDisallow: /{'a*' * 10_000}b\n"
    assert allows(text, "/" + "a" * 2_000)
