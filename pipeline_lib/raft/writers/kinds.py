"""Which kinds and styles of questions there are, and in what shares."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from pipeline_lib.config import SynthesizeConfig
from pipeline_lib.config.shares import normalized
from pipeline_lib.errors import ConfigError
from pipeline_lib.raft.keys import unit_interval
from pipeline_lib.raft.prompts.library import PromptLibrary

FACTUAL = "factual"
PLAIN = "plain"
PAIRED_KINDS = frozenset({"comparison", "multi_hop"})
"""Kinds that are about two passages."""

_RESERVED = frozenset({"user"})
"""Names a kind that no teacher writes."""
_CHAT_KINDS: Mapping[str, float] = {
    FACTUAL: 0.45,
    "how_why": 0.25,
    "comparison": 0.1,
    "multi_hop": 0.1,
    "unanswerable": 0.1,
}
_EXTRACTIVE_KINDS: Mapping[str, float] = {FACTUAL: 1.0}


def kind_shares(config: SynthesizeConfig) -> dict[str, float]:
    """Kind to share, adding up to 1: what is configured, else what suits the writer."""
    default = _EXTRACTIVE_KINDS if config.teacher.resolved_writer == "extractive" else _CHAT_KINDS
    return normalized(config.questions.kinds or default)


def style_shares(config: SynthesizeConfig) -> dict[str, float]:
    """Style to share, adding up to 1; all plain unless configured."""
    return normalized(config.questions.styles or {PLAIN: 1.0})


def check_mix(config: SynthesizeConfig, prompts: PromptLibrary) -> None:
    """Make sure that the writer can write all kinds and styles that are wanted.

    Raises:
        ConfigError: it cannot.
    """
    if config.teacher.resolved_writer == "extractive":
        kinds, styles, hint = [FACTUAL], [PLAIN], "Others need teacher.writer 'chat'."
    else:
        kinds = [kind for kind in prompts.names("ask-") if kind not in _RESERVED]
        styles = prompts.names("style-")
        hint = "A template {}-<name>.jinja in prompts_path adds one."
    _check("kind", kind_shares(config), kinds, hint.format("ask"))
    _check("style", style_shares(config), styles, hint.format("style"))


def ranked_by_share(shares: Mapping[str, float], *parts: object) -> list[str]:
    """The names of `shares` in an order that depends on nothing but them and `parts`.

    Each name comes first with the probability of its share, second with its share of the others,
    and so on (Efraimidis and Spirakis 2006, weighted sampling without replacement). A further name
    moves none of the others.
    """
    times = {
        name: -math.log(1.0 - unit_interval(name, *parts)) / share for name, share in shares.items()
    }
    return sorted(times, key=lambda name: (times[name], name))


def _check(what: str, wanted: Collection[str], known: Collection[str], hint: str) -> None:
    missing = sorted(set(wanted) - set(known))
    if missing:
        raise ConfigError(
            f"The teacher writes no questions of {what} {', '.join(map(repr, missing))}; "
            f"there are: {', '.join(sorted(known))}",
            hint=hint,
        )
