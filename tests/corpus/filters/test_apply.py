"""Which documents the filters drop, and what they change in the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from pipeline_lib.config.corpus import FilterConfig
from pipeline_lib.corpus.drops import DropReason
from pipeline_lib.corpus.filters import apply_filters, identify_language, redact
from pipeline_lib.corpus.media_types import SOURCE_CODE
from pipeline_lib.corpus.schema import Document, Drop

MakeDocument = Callable[..., Document]
ENGLISH = "The committee has decided to postpone the meeting until next week because of the snow."
GERMAN = "Der Ausschuss hat beschlossen, die Sitzung wegen des Schnees auf nächste Woche zu legen."


def dropped(document: Document, config: FilterConfig) -> Drop:
    outcome = apply_filters(document, config)
    assert isinstance(outcome.document, Drop)
    return outcome.document


def kept(document: Document, config: FilterConfig) -> Document:
    outcome = apply_filters(document, config)
    assert isinstance(outcome.document, Document)
    return outcome.document


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (ENGLISH, "en"),
        (GERMAN, "de"),
        ("Le comité a décidé de reporter la réunion à la semaine prochaine.", "fr"),
        ("委员会决定将会议推迟到下周，因为下雪。", "zh"),  # noqa: RUF001
        ("委員会は雪のため会議を来週に延期することを決めました。", "ja"),
        ("قررت اللجنة تأجيل الاجتماع إلى الأسبوع المقبل بسبب الثلوج الكثيفة.", "ar"),
        (f"```py\nfor i in range(10): f(i)\n```\n{GERMAN * 3}", "de"),
        ("FAQ", ""),
        ("", ""),
        ("1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20", ""),
    ],
)
def test_the_language_is_told_from_enough_text_only(text: str, language: str) -> None:
    assert identify_language(text) == language


def test_documents_in_other_languages_are_dropped(document: MakeDocument) -> None:
    config = FilterConfig(languages=("en", "fr"))
    assert kept(document(ENGLISH), config).language == "en"
    drop = dropped(document(GERMAN), config)
    assert drop.reason == DropReason.OTHER_LANGUAGE
    assert drop.detail == "the text is in 'de', wanted: en, fr"
    assert drop.remedy


def test_a_language_that_cannot_be_told_is_no_reason_to_drop(document: MakeDocument) -> None:
    config = FilterConfig(languages=("en",))
    assert kept(document("FAQ"), config).language == ""
    assert kept(document(GERMAN, SOURCE_CODE), config).language == ""


def test_the_sources_word_counts_where_the_text_is_too_short(document: MakeDocument) -> None:
    config = FilterConfig(languages=("en",))
    assert kept(replace(document(ENGLISH), language="de"), config).language == "en"
    assert dropped(replace(document("FAQ"), language="de"), config).reason == "other_language"


def test_lengths_are_judged_in_characters(document: MakeDocument) -> None:
    config = FilterConfig(min_chars=3, max_chars=5)
    assert dropped(document("漢字"), config).reason == DropReason.TOO_SHORT
    assert kept(document("漢字漢字漢"), config).text == "漢字漢字漢"
    drop = dropped(document("123456"), config)
    assert (drop.reason, drop.detail) == ("too_long", "6 characters, more than max_chars = 5")


@pytest.mark.parametrize(
    ("field", "text", "reason"),
    [
        ("personal_data", "write to a@b.io or c@d.io", "personal_data"),
        ("secrets", f"token ghp_{'a1' * 18}", "secrets"),
    ],
)
def test_keep_redact_or_drop(document: MakeDocument, field: str, text: str, reason: str) -> None:
    keep, redacting, dropping = (
        FilterConfig(**{"personal_data": "keep", "secrets": "keep", field: action})
        for action in ("keep", "redact", "drop")
    )
    assert redact(text, keep) == redact(text, dropping) == (text, {})
    assert redact(text, redacting)[0] != text
    assert kept(document(text), keep).text == text
    drop = dropped(document(text), dropping)
    assert drop.reason == reason
    assert "a@b.io" not in drop.detail
    assert "ghp_" not in drop.detail


def test_title_and_metadata_are_redacted_too_and_counted(document: MakeDocument) -> None:
    config = FilterConfig(personal_data="redact")
    metadata = '{"author": "a@b.io", "tags": ["x", {"by": "c@d.io"}], "year": 2024}'
    with_data = replace(document("text"), title="Mail of a@b.io", metadata_json=metadata)
    outcome = apply_filters(with_data, config)
    assert isinstance(outcome.document, Document)
    assert outcome.document.title == "Mail of [EMAIL]"
    assert outcome.document.metadata_json == (
        '{"author": "[EMAIL]", "tags": ["x", {"by": "[EMAIL]"}], "year": 2024}'
    )
    assert outcome.redactions == {"email": 3}


def test_a_document_is_dropped_for_personal_data_in_its_metadata(document: MakeDocument) -> None:
    with_data = replace(document("text"), metadata_json='{"author": "a@b.io"}')
    drop = dropped(with_data, FilterConfig(personal_data="drop"))
    assert drop.detail == "found: 1 email"


def test_redacting_twice_is_redacting_once() -> None:
    config = FilterConfig(personal_data="redact")
    once, _ = redact("a@b.io +49 30 901820 203.0.113.7 4111111111111111", config)
    assert redact(once, config) == (once, {})
