"""The rewards: pure functions of a row and of what a model wrote, from 0 to 1.

A policy finds whatever a reward overlooks, so each is strict where that is cheap to exploit: a
quote of one word proves nothing, a long answer loses precision, a contradiction counts as wrong
however many words it shares, and text behind the answer is not the format.

Rows ask for an answer from their oracles (target `answer`) or, where they hold none, for a refusal
(target `refuse`). On the latter nothing can be proved: no quote is the best there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from pipeline_lib.config.shares import normalized
from pipeline_lib.errors import ConfigError
from pipeline_lib.raft.matching import agreement
from pipeline_lib.raft.quotes import MIN_PIECE_WORDS, QuoteCheck, verify_quote
from pipeline_lib.raft.rendering import (
    CitedQuote,
    ParsedAnswer,
    parse_answer,
    render_answer,
)
from pipeline_lib.raft.rows import RaftRow

Reward = Callable[[RaftRow, str], float]
"""Of a row, and the text that a model wrote to its prompt."""

_CACHED_TEXTS = 256
"""Every reward reads the same text, one after another."""


def answer(row: RaftRow, text: str) -> float:
    """Whether the final answer is right: its token F1 with the row's, 0 where they contradict.

    A refusal is right, and worth 1, where the row refuses, and wrong elsewhere.
    """
    said = _read(row, text)
    if said.final_answer is None:
        return 0.0
    if said.is_refusal or row.target == "refuse":
        return float(said.is_refusal and row.target == "refuse")
    return agreement(said.final_answer, row.final_answer)


def verbatim(row: RaftRow, text: str) -> float:
    """Share of the quotes that are word for word in the passage they cite."""
    return _share_of_quotes(row, text, lambda check: check.status == "verbatim")


def grounded(row: RaftRow, text: str) -> float:
    """Share of the quotes whose words are an oracle's, whichever passage they cite."""
    oracles = {passage.chunk_id for passage in row.context if passage.role == "oracle"}
    return _share_of_quotes(row, text, lambda check: check.chunk_id in oracles)


def refusal(row: RaftRow, text: str) -> float:
    """1 for a refusal where the row refuses and for an answer where it does not; else 0."""
    said = _read(row, text)
    is_right = said.is_refusal == (row.target == "refuse")
    return float(is_right and said.final_answer is not None)


def is_format(row: RaftRow, text: str) -> float:
    """1 when the text is what rendering its own reading gives, up to white space; else 0.

    So every marker is closed, every quote names a passage there is, there is one answer, and it
    comes last: an output that was cut off, or goes on behind its answer, is worth 0.
    """
    said = _read(row, text)
    if said.final_answer is None or any(quote.passage_number is None for quote in said.quotes):
        return 0.0
    return float(_dense(render_answer(said.steps, said.final_answer)) == _dense(text))


REWARDS: Mapping[str, Reward] = {
    "answer": answer,
    "verbatim": verbatim,
    "grounded": grounded,
    "refusal": refusal,
    "format": is_format,
}


def weights_of(reward_weights: Mapping[str, float]) -> dict[str, float]:
    """Weights that add up to 1, those of 0 left out.

    Raises:
        ConfigError: one of them is for a reward there is not.
    """
    unknown = sorted(set(reward_weights) - set(REWARDS))
    if unknown:
        raise ConfigError(
            f"finetune.reinforcement.reward_weights names {', '.join(unknown)}, which is no reward",
            hint=f"Rewards are {', '.join(REWARDS)}.",
        )
    if not reward_weights:
        raise ConfigError(
            "finetune.reinforcement.reward_weights is empty",
            hint=f"Give at least one of {', '.join(REWARDS)} a weight above 0.",
        )
    return normalized(reward_weights)


def rewards_of(row: RaftRow, text: str, weights: Mapping[str, float]) -> dict[str, float]:
    """Each reward that has a weight, and `total`, their weighted sum."""
    values = {name: REWARDS[name](row, text) for name in weights}
    return values | {"total": sum(weights[name] * values[name] for name in weights)}


def _share_of_quotes(row: RaftRow, text: str, is_good: Callable[[QuoteCheck], bool]) -> float:
    """Without any quote: 1 where there is nothing to prove, else 0."""
    quotes = _read(row, text).quotes
    if not quotes:
        return float(row.target == "refuse")
    least = _least_words(row)
    good = sum(
        len(quote.text.split()) >= least and is_good(_checked(quote, row)) for quote in quotes
    )
    return good / len(quotes)


def _checked(quote: CitedQuote, row: RaftRow) -> QuoteCheck:
    return verify_quote(quote.text, quote.passage_number, row.context)


def _least_words(row: RaftRow) -> int:
    """Fewer words prove nothing, unless one of the row's own quotes has no more."""
    return min([MIN_PIECE_WORDS, *(len(quote.text.split()) for quote in row.quotes)])


def _read(row: RaftRow, text: str) -> ParsedAnswer:
    return _parsed(text, len(row.context))


@lru_cache(maxsize=_CACHED_TEXTS)
def _parsed(text: str, num_passages: int) -> ParsedAnswer:
    return parse_answer(text, range(num_passages))


def _dense(text: str) -> str:
    return "".join(text.split())
