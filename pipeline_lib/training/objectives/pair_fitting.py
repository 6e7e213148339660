"""Preference pairs tokenized, and what to do with those that are too long: decided, and counted.

A pair is one row: its prompt, which is computed once, and both answers. So no pair is longer than a
micro batch in tokens, which has room for the longest row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pipeline_lib.config import BatchConfig
from pipeline_lib.errors import InputError
from pipeline_lib.raft.derived.preferences import PreferencePair
from pipeline_lib.raft.rendering import parse_answer, render_prompt
from pipeline_lib.raft.rows import Passage
from pipeline_lib.training.examples import Example, encode_exchanges
from pipeline_lib.training.fitting import removal_order, with_fewest_left_out

_ENCODED_TOGETHER = 64
_CITATION = re.compile(r'(?<=<quote doc=")\d+(?=">)')

EncodedPair = tuple[Example, Example]
"""The chosen answer and the rejected one."""


class PairFitter:
    """Tokenizes pairs, and keeps those that fit.

    Args:
        tokenizer: of the base model.
        batch: how long a pair may be, and what becomes of longer ones.
    """

    def __init__(self, tokenizer: Any, batch: BatchConfig) -> None:
        self._tokenizer = tokenizer
        self._batch = batch
        self.num_too_long = 0
        """Pairs left out."""
        self.num_with_fewer_distractors = 0

    def encoded(self, pairs: Sequence[PreferencePair]) -> Iterator[EncodedPair]:
        """The pairs that fit, tokenized, in their order.

        Raises:
            InputError: one is too long, and the policy is 'error'; or there is no chat template.
            TrainingError: the chat template changes an answer.
        """
        for start in range(0, len(pairs), _ENCODED_TOGETHER):
            some = pairs[start : start + _ENCODED_TOGETHER]
            for pair, encoded in zip(some, self._encode(some), strict=True):
                fitted = self._fitted(pair, encoded)
                if fitted is None:
                    self.num_too_long += 1
                else:
                    yield fitted

    def _encode(self, pairs: Sequence[PreferencePair]) -> Iterator[EncodedPair]:
        answers = iter(encode_exchanges(list(_exchanges(pairs)), self._tokenizer))
        for pair in pairs:
            chosen, rejected = (
                Example(
                    row_id=pair.pair_id,
                    input_ids=(*prompt_ids, *answer_ids),
                    num_prompt_tokens=len(prompt_ids),
                    task=pair.fault,
                    prompt_group=pair.pair_id,
                )
                for prompt_ids, answer_ids in (next(answers), next(answers))
            )
            yield chosen, rejected

    def _fitted(self, pair: PreferencePair, encoded: EncodedPair) -> EncodedPair | None:
        limit, length = self._batch.max_seq_len, _length(encoded)
        if length <= limit:
            return encoded
        if self._batch.too_long == "error":
            raise InputError(
                f"Pair {pair.pair_id} has {length} tokens (its prompt and both answers), more than "
                f"the {limit} that a row may have",
                hint="Raise finetune.batch.max_seq_len, or set finetune.batch.too_long to 'drop' "
                "or 'fewer_distractors'.",
            )
        if self._batch.too_long == "drop":
            return None
        shorter = self._with_fewer_distractors(pair)
        self.num_with_fewer_distractors += shorter is not None
        return shorter

    def _with_fewer_distractors(self, pair: PreferencePair) -> EncodedPair | None:
        """As few left out as make it fit; `None` if it does not fit without any."""
        cited = cited_passages(pair)
        order = [passage for passage in removal_order(pair) if passage not in cited]

        def encode(left_out: Sequence[Passage]) -> EncodedPair:
            (encoded,) = self._encode([without_passages(pair, left_out)])
            return encoded

        def fits(encoded: EncodedPair) -> bool:
            return _length(encoded) <= self._batch.max_seq_len

        shortened = with_fewest_left_out(order, encode, fits)
        return shortened if fits(shortened) else None


def cited_passages(pair: PreferencePair) -> list[Passage]:
    """Those that one of the answers names, rightly or not; its fault may rest on them."""
    quotes = (
        quote
        for answer in (pair.chosen, pair.rejected)
        for quote in parse_answer(answer, pair.context).quotes
    )
    numbers = {quote.passage_number for quote in quotes}
    return [passage for number, passage in enumerate(pair.context, 1) if number in numbers]


def without_passages(pair: PreferencePair, left_out: Iterable[Passage]) -> PreferencePair:
    """The pair with a smaller context, and the same passages cited by their new numbers.

    Args:
        pair: to make smaller.
        left_out: distractors that no answer cites. Then both answers are as right, and as wrong, as
            before, which is checked as for every pair that is made.
    """
    gone = {passage.chunk_id for passage in left_out}
    numbers: dict[str, str] = {}
    kept: list[Passage] = []
    for number, passage in enumerate(pair.context, start=1):
        if passage.chunk_id not in gone:
            kept.append(passage)
            numbers[str(number)] = str(len(kept))

    def renumbered(answer: str) -> str:
        # A number that names no passage stays: there are fewer now, so it still names none.
        return _CITATION.sub(lambda found: numbers.get(found[0], found[0]), answer)

    changes = {
        "context": kept,
        "chosen": renumbered(pair.chosen),
        "rejected": renumbered(pair.rejected),
    }
    return PreferencePair.model_validate(dict(pair) | changes)


def _length(encoded: EncodedPair) -> int:
    chosen, rejected = encoded
    return len(chosen.input_ids) + len(rejected.input_ids) - chosen.num_prompt_tokens


def _exchanges(
    pairs: Iterable[PreferencePair],
) -> Iterator[tuple[str, list[dict[str, str]], str]]:
    for pair in pairs:
        prompt = render_prompt(pair.question, pair.context)
        for answer in (pair.chosen, pair.rejected):
            yield pair.pair_id, prompt, answer
