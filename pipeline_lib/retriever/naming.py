"""What a tuned retriever and the index it was tuned from are called, beside their pipeline."""

from __future__ import annotations

import re

from pipeline_lib.config import NAME_PATTERN
from pipeline_lib.config.retriever import RETRIEVER_SUFFIX, UNTUNED_SUFFIX
from pipeline_lib.errors import ConfigError


def retriever_name(name: str) -> str:
    """Name of the tuned model of the pipeline `name`: `docs-retriever`.

    Raises:
        ConfigError: it would be too long for an artifact.
    """
    return _with_suffix(name, RETRIEVER_SUFFIX)


def untuned_name(name: str) -> str:
    """Name of the pipeline's index by the untuned model, where another one serves: `docs-untuned`.

    Raises:
        ConfigError: it would be too long for an artifact.
    """
    return _with_suffix(name, UNTUNED_SUFFIX)


def _with_suffix(name: str, suffix: str) -> str:
    full = name + suffix
    if not re.fullmatch(NAME_PATTERN, full):
        raise ConfigError(
            f"{full!r} cannot name an artifact",
            hint="Names are 1 to 63 lower-case letters, digits and dashes; give the pipeline a "
            "shorter one.",
        )
    return full
