"""E-books: the spine's pages in reading order."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline_lib.config import IngestConfig
from pipeline_lib.config.corpus import IngestLimits
from pipeline_lib.corpus.parsing.base import ParsedDocument, Segment
from pipeline_lib.corpus.schema import Drop

ParseOne = Callable[..., ParsedDocument]
Refuse = Callable[..., Drop]
MakeEpub = Callable[..., bytes]
ChangedMember = Callable[..., bytes]
OPF = "OEBPS/book.opf"


def test_parts_in_spine_order_without_navigation_and_pictures(
    parse_one: ParseOne, epub: MakeEpub
) -> None:
    data = epub(
        {
            "z.xhtml": "<h1>One</h1><p>Parcels <b>may</b> be returned.</p>",
            "cover.xhtml": "<img src='cover.png'/>",
            "a.xhtml": "<p>Größe, 日本語, שלום.</p>",
        }
    )
    parsed = parse_one(data, "file:a.epub")
    assert parsed.segments == (
        Segment(text="# One\n\nParcels may be returned.", kind="part", label="One"),
        Segment(text="Größe, 日本語, שלום.", kind="part", label="a"),
    )
    assert (parsed.title, parsed.language) == ("The Parcel Book", "en")
    assert parsed.metadata == {"language": "en-GB", "creator": "A. Writer"}


def test_paths_in_the_package_may_be_escaped(
    parse_one: ParseOne, epub: MakeEpub, changed_member: ChangedMember
) -> None:
    data = changed_member(
        epub({"a b.xhtml": "<p>text</p>"}),
        OPF,
        lambda opf: opf.replace(b"a b.xhtml", b"a%20b.xhtml"),
    )
    assert parse_one(data, "file:a.epub").segments[0].text == "text"


def test_a_doctype_that_only_names_a_public_dtd_is_allowed(
    parse_one: ParseOne, epub: MakeEpub, changed_member: ChangedMember
) -> None:
    """EPUB 2 had to have one."""
    doctype = (
        b'<?xml version="1.0"?><!DOCTYPE package PUBLIC "+//ISBN 0//DTD" "http://x.org/p.dtd">'
    )
    data = changed_member(
        epub({"a.xhtml": "<p>text</p>"}),
        OPF,
        lambda opf: opf.replace(b'<?xml version="1.0"?>', doctype),
    )
    assert parse_one(data, "file:a.epub").segments[0].text == "text"


def test_external_entities_are_a_drop(
    refuse: Refuse, epub: MakeEpub, changed_member: ChangedMember
) -> None:
    doctype = b'<?xml version="1.0"?><!DOCTYPE package [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    data = changed_member(
        epub({"a.xhtml": "<p>text</p>"}),
        OPF,
        lambda opf: opf.replace(b'<?xml version="1.0"?>', doctype).replace(b"Book", b"&x;"),
    )
    drop = refuse(data, "file:a.epub")
    assert (drop.reason, drop.detail) == (
        "broken_file",
        f"{OPF} declares XML entities or a document type",
    )


@pytest.mark.parametrize("name", ["META-INF/container.xml", OPF, "OEBPS/a.xhtml"])
def test_a_missing_member_is_named(
    refuse: Refuse, epub: MakeEpub, changed_member: ChangedMember, name: str
) -> None:
    data = epub({"a.xhtml": "<p>text</p>"})
    drop = refuse(data.replace(name.encode(), b"x" * len(name)), "file:a.epub")
    assert (drop.reason, drop.detail) == ("broken_file", f"{name} is missing in it")


def test_locked_pages_are_a_drop(refuse: Refuse, epub: MakeEpub) -> None:
    lock = (
        '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><EncryptedData>'
        '<CipherData><CipherReference URI="OEBPS/a.xhtml"/></CipherData></EncryptedData>'
        "</encryption>"
    )
    data = epub({"a.xhtml": "<p>text</p>"}, **{"META-INF/encryption.xml": lock})
    assert refuse(data, "file:a.epub").reason == "encrypted"


def test_bounds(refuse: Refuse, epub: MakeEpub) -> None:
    data = epub({"a.xhtml": "<p>text</p>", "b.xhtml": "<p>text</p>"})
    config = IngestConfig(limits=IngestLimits(max_pages=2))
    assert refuse(data, "file:a.epub", config=config).detail.startswith("3 parts")
    assert refuse(epub({"a.xhtml": ""}), "file:a.epub").reason == "no_text"
