"""Front matter becomes metadata, MDX loses its program parts, Markdown stays as written."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline_lib.corpus.parsing.base import ParsedDocument
from pipeline_lib.corpus.parsing.mdx import strip_mdx
from pipeline_lib.corpus.parsing.metadata import json_ready, language_code

ParseOne = Callable[..., ParsedDocument]


def test_yaml_front_matter_gives_title_language_and_metadata(parse_one: ParseOne) -> None:
    page = (
        "---\ntitle: Returns\nlang: de-AT\ndate: 2024-02-29\ntags: [a, b]\ndraft:\n---\n# Heading\n"
    )
    parsed = parse_one(page.encode(), "file:a.md")
    assert (parsed.title, parsed.language) == ("Returns", "de")
    assert parsed.metadata == {"lang": "de-AT", "date": "2024-02-29", "tags": ["a", "b"]}
    assert parsed.segments[0].text == "# Heading\n"


def test_toml_front_matter(parse_one: ParseOne) -> None:
    parsed = parse_one(b'+++\ntitle = "Returns"\nweight = 3\n+++\r\ntext', "file:a.md")
    assert (parsed.title, parsed.metadata) == ("Returns", {"weight": 3})
    assert parsed.segments[0].text == "text"


@pytest.mark.parametrize(
    "page",
    [
        "---\n\nbetween two rules\n\n---\n\ntext",  # a string, not a mapping
        "---\nkey: [broken\n---\ntext",
        "---\nnot closed: yes\ntext",
        "---\ndate: 2024-13-45\n---\ntext",
        "text\n---\nkey: value\n---\n",
    ],
)
def test_what_is_no_front_matter_is_text(parse_one: ParseOne, page: str) -> None:
    parsed = parse_one(page.encode(), "file:a.md")
    assert (parsed.segments[0].text, parsed.metadata) == (page, {})


def test_a_yaml_bomb_costs_nothing(parse_one: ParseOne) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    parsed = parse_one("\n".join(["---", *lines, "---", "text"]).encode(), "file:a.md")
    assert (parsed.segments[0].text, parsed.metadata) == ("text", {})


def test_metadata_are_fit_for_json() -> None:
    values = {1: float("nan"), "s": "x" * 3000, "b": b"raw", "nested": {"empty": ""}, "n": None}
    assert json_ready(values) == {"1": "nan", "s": "x" * 2000, "b": "b'raw'"}


@pytest.mark.parametrize(
    ("declared", "code"),
    [("en-GB", "en"), ("DE_at", "de"), ("fr", "fr"), ("eng", ""), ("", ""), (None, ""), (5, "")],
)
def test_language_codes(declared: object, code: str) -> None:
    assert language_code(declared) == code


def test_mdx_keeps_the_text_and_drops_the_program() -> None:
    page = """import Tabs from '@theme/Tabs'
import {
  A,
  B,
} from './parts'

export const year = 2024

# Returns

<Tabs values={[{ label: "a > b" }]} onClick={() => { go('>') }}>
  <TabItem value="x>y">You have **fourteen** days.</TabItem>
</Tabs>

{/* a note
to writers */}

<br />5 < 6 and a <b>tag</b>, but not `<Code a={1}>`.

```jsx
import X from 'x'
<Tabs>{x}</Tabs>
```

important text stays
"""
    assert (
        strip_mdx(page).split()
        == """# Returns

  You have **fourteen** days.

5 < 6 and a tag, but not `<Code a={1}>`.

```jsx
import X from 'x'
<Tabs>{x}</Tabs>
```

important text stays
""".split()
    )


def test_an_mdx_tag_that_never_ends_is_text() -> None:
    assert strip_mdx("a <b and then {nothing") == "a <b and then {nothing"


def test_mdx_is_read_as_mdx_by_its_suffix_only(parse_one: ParseOne) -> None:
    page = b"import x from 'y'\n\ntext"
    assert parse_one(page, "file:a.md").segments[0].text == page.decode()
    assert parse_one(page, "file:a.mdx").segments[0].text == "\ntext"
