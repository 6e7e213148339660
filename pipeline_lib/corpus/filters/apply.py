"""The configured filters, applied to segments of text and to documents."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline_lib.config.corpus import FilterConfig
from pipeline_lib.corpus.drops import DropReason, make_drop
from pipeline_lib.corpus.filters.credentials import SECRETS
from pipeline_lib.corpus.filters.detection import Detector, redact_with
from pipeline_lib.corpus.filters.language import identify_language
from pipeline_lib.corpus.filters.personal_data import PERSONAL_DATA
from pipeline_lib.corpus.media_types import SOURCE_CODE
from pipeline_lib.corpus.schema import Document, Drop


@dataclass(frozen=True)
class FilterOutcome:
    """What the filters made of a document."""

    document: Document | Drop
    redactions: Counter[str] = field(default_factory=Counter)
    """What was replaced in title and metadata, by kind; `redact` counts that of the text."""


def redact(text: str, config: FilterConfig) -> tuple[str, Counter[str]]:
    """`text` with what `config` wants redacted replaced by its kind, and the counts by kind.

    What is to be kept, or to have its document dropped, stays.
    """
    return redact_with(_detectors(config, "redact"), text)


def apply_filters(document: Document, config: FilterConfig) -> FilterOutcome:
    """Name the document's language, redact its title and metadata, and drop what is unwanted.

    The text must have been redacted before. A language that cannot be told is nobody's reason to
    drop; the source's own word for it counts where the text is too short to tell.
    """
    if drop := _refuse(document, config):
        return FilterOutcome(drop)
    is_code = document.media_type == SOURCE_CODE
    language = "" if is_code else identify_language(document.text) or document.language
    if config.languages and language and language not in config.languages:
        wanted = ", ".join(config.languages)
        detail = f"the text is in '{language}', wanted: {wanted}"
        return FilterOutcome(make_drop(document.source_uri, DropReason.OTHER_LANGUAGE, detail))
    title, redactions = redact(document.title, config)
    metadata, more = _redact_values(json.loads(document.metadata_json), config)
    metadata_json = document.metadata_json
    if more:
        metadata_json = json.dumps(metadata, ensure_ascii=False, sort_keys=True)
    kept = replace(document, language=language, title=title, metadata_json=metadata_json)
    return FilterOutcome(kept, redactions + more)


def _detectors(config: FilterConfig, action: str) -> Sequence[Detector]:
    secrets = SECRETS if config.secrets == action else ()
    personal_data = PERSONAL_DATA if config.personal_data == action else ()
    return (*secrets, *personal_data)


def _refuse(document: Document, config: FilterConfig) -> Drop | None:
    length, uri = len(document.text), document.source_uri
    if length < config.min_chars:
        detail = f"{length} characters, fewer than min_chars = {config.min_chars}"
        return make_drop(uri, DropReason.TOO_SHORT, detail)
    if config.max_chars is not None and length > config.max_chars:
        detail = f"{length} characters, more than max_chars = {config.max_chars}"
        return make_drop(uri, DropReason.TOO_LONG, detail)
    for action, reason, detectors in (
        (config.secrets, DropReason.SECRETS, SECRETS),
        (config.personal_data, DropReason.PERSONAL_DATA, PERSONAL_DATA),
    ):
        if action != "drop":
            continue
        searched = f"{document.title}\n\n{document.text}\n\n{document.metadata_json}"
        _, found = redact_with(detectors, searched)
        if found:
            counts = ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
            return make_drop(uri, reason, f"found: {counts}")
    return None


def _redact_values(value: Any, config: FilterConfig) -> tuple[Any, Counter[str]]:
    """JSON with the strings in it redacted; keys stay."""
    if isinstance(value, str):
        return redact(value, config)
    found: Counter[str] = Counter()
    if isinstance(value, dict):
        values = {}
        for key, inner in value.items():
            values[key], more = _redact_values(inner, config)
            found += more
        return values, found
    if isinstance(value, list):
        items = []
        for inner in value:
            item, more = _redact_values(inner, config)
            items.append(item)
            found += more
        return items, found
    return value, found
