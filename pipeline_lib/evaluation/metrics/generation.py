"""Metrics that compare a final answer with the reference answer, and answer perplexity."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from math import exp
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline_lib.raft.matching import exact_match, normalize_answer, token_f1

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "BLEU_MAX_ORDER",
    "UnicodeTokenizer",
    "bleu_from_sums",
    "bleu_signature",
    "bleu_statistics",
    "corpus_bleu",
    "exact_match",
    "normalize_answer",
    "perplexity",
    "rouge_l",
    "token_f1",
]

_WORD_CATEGORIES = frozenset("LMN")
_UNSPACED_SCRIPTS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
)
"""Thai, Lao, Burmese, Khmer, kana and Han: written without spaces, so a character is a token."""

BLEU_MAX_ORDER = 4


class UnicodeTokenizer:
    """Words of any script, for rouge_score, whose own tokenizer keeps only `[a-z0-9]`.

    Text is NFKC-normalised and case-folded; letters, marks and digits make words; in scripts
    written without spaces every character is one. On ASCII text it equals rouge_score's default.
    """

    def tokenize(self, text: str) -> list[str]:
        """Split text into tokens; never an empty one."""
        folded = unicodedata.normalize("NFKC", text).casefold()
        spaced = "".join(
            char if unicodedata.category(char)[0] in _WORD_CATEGORIES else " " for char in folded
        )
        return _UNSPACED_SCRIPTS.sub(lambda match: f" {match[0]} ", spaced).split()


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=UnicodeTokenizer())


def rouge_l(prediction: str, reference: str) -> float:
    """F1 of the longest common subsequence of tokens (Lin 2004), by rouge_score."""
    return float(_rouge_scorer().score(target=reference, prediction=prediction)["rougeL"].fmeasure)


@cache
def _bleu() -> Any:
    from sacrebleu.metrics import BLEU

    # Effective order: without it a perfect answer of fewer than four words scores 0.
    return BLEU(effective_order=True, max_ngram_order=BLEU_MAX_ORDER)


def bleu_statistics(prediction: str, reference: str) -> list[int]:
    """What one answer adds to corpus BLEU: sums of these give the score (`bleu_from_sums`).

    Returns:
        Answer length, reference length, matching n-grams of order 1 to 4, all n-grams of
        order 1 to 4; in sacreBLEU's tokens.
    """
    score = _bleu().sentence_score(prediction, [reference])
    return [score.sys_len, score.ref_len, *score.counts, *score.totals]


def bleu_from_sums(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Corpus BLEU (0 to 100) from `bleu_statistics` summed over questions.

    Args:
        sums: shape (samples, 10).

    Returns:
        Shape (samples,).
    """
    bleu = _bleu()
    scores = [
        bleu.compute_bleu(
            correct=row[2 : 2 + BLEU_MAX_ORDER],
            total=row[2 + BLEU_MAX_ORDER :],
            sys_len=row[0],
            ref_len=row[1],
            smooth_method=bleu.smooth_method,
            smooth_value=bleu.smooth_value,
            effective_order=bleu.effective_order,
            max_ngram_order=BLEU_MAX_ORDER,
        ).score
        for row in np.rint(sums).astype(np.int64).tolist()
    ]
    return np.array(scores, dtype=np.float64)


def bleu_signature() -> str:
    """The sacreBLEU signature that belongs to every BLEU of this module."""
    # sacreBLEU knows the number of references, part of the signature, only after scoring.
    return corpus_bleu([""], [""])[1]


def corpus_bleu(predictions: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    """Corpus BLEU (0 to 100) and the sacreBLEU signature to report with it."""
    bleu = _bleu()
    score = bleu.corpus_score(list(predictions), [list(references)]).score
    return float(score), str(bleu.get_signature())


def perplexity(sum_nll: float, num_tokens: int) -> float:
    """exp(summed negative log-likelihood in nats / tokens).

    Over several texts, sum both first: a mean of per-text perplexities is another quantity.

    Raises:
        ValueError: there are no tokens.
    """
    if num_tokens < 1:
        raise ValueError("perplexity needs at least one token")
    return exp(sum_nll / num_tokens)
