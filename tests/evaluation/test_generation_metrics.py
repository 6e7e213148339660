"""Answer metrics: hand-worked cases, rouge_score and sacrebleu themselves."""

from __future__ import annotations

import random
from math import exp, log

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

from pipeline_lib.evaluation.metrics.generation import (
    UnicodeTokenizer,
    bleu_from_sums,
    bleu_statistics,
    corpus_bleu,
    exact_match,
    normalize_answer,
    perplexity,
    rouge_l,
    token_f1,
)

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "fox",
    "sat",
    "on",
    "mat",
    "over",
    "red",
    "lazy",
    "jumps",
    "and",
    "runs",
    ",",
    ".",
    "quickly",
]


def random_texts(seed: int, num: int, longest: int = 14) -> list[str]:
    chooser = random.Random(seed)
    return [" ".join(chooser.choices(WORDS, k=chooser.randint(0, longest))) for _ in range(num)]


def test_normalisation_drops_case_punctuation_articles_and_extra_spaces():
    assert normalize_answer("  The  Cat's   HAT, a  test. ") == "cats hat test"


def test_articles_are_whole_words():
    assert normalize_answer("another theatre an") == "another theatre"


def test_exact_match_compares_normalised_answers():
    assert exact_match("The fox!", "fox") == 1.0
    assert exact_match("the red fox", "fox") == 0.0


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("the red fox", "red fox", 1.0),
        ("red red fox", "red fox", 0.8),  # precision 2/3, recall 1
        ("a dog", "red fox", 0.0),
        ("", "fox", 0.0),
        ("the", "", 1.0),  # both empty once articles are gone
    ],
)
def test_token_f1_is_the_harmonic_mean_over_bags_of_words(prediction, reference, expected):
    assert token_f1(prediction, reference) == pytest.approx(expected)


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence():
    # "police … the gunman" keeps 3 of 4 words in order on both sides (Lin 2004, section 3).
    assert rouge_l("police kill the gunman", "police killed the gunman") == pytest.approx(0.75)


def test_rouge_l_equals_rouge_score_with_its_own_tokenizer_on_ascii_text():
    scorer = RougeScorer(["rougeL"])
    for prediction, reference in zip(random_texts(1, 80), random_texts(2, 80), strict=True):
        expected = scorer.score(reference, prediction)["rougeL"].fmeasure
        assert rouge_l(prediction, reference) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["Быстрая лиса", "速い狐が跳ぶ", "तेज़ लोमड़ी", "ثعلب سريع", "été"])
def test_text_of_any_script_has_rouge_one_against_itself(text):
    assert rouge_l(text, text) == 1.0


def test_the_tokenizer_keeps_words_of_spaced_scripts_whole_and_splits_unspaced_ones():
    tokens = UnicodeTokenizer().tokenize("Straße, हिन्दी_x2 and 東京")
    assert tokens == ["strasse", "हिन्दी", "x2", "and", "東", "京"]


def test_bleu_sums_give_sacrebleus_corpus_score():
    predictions, references = random_texts(3, 60), [t or "cat" for t in random_texts(4, 60)]
    sums = np.array(
        [bleu_statistics(p, r) for p, r in zip(predictions, references, strict=True)]
    ).sum(axis=0, keepdims=True)
    expected = BLEU(effective_order=True).corpus_score(predictions, [references]).score
    assert bleu_from_sums(sums)[0] == pytest.approx(expected)
    assert corpus_bleu(predictions, references)[0] == pytest.approx(expected)


def test_a_short_perfect_answer_has_full_bleu_and_the_signature_says_why():
    score, signature = corpus_bleu(["the cat"], ["the cat"])
    assert score == pytest.approx(100.0)
    assert "eff:yes" in signature
    assert "version:" in signature


def test_an_empty_answer_has_no_bleu():
    assert corpus_bleu([""], ["the cat"])[0] == 0.0


def test_perplexity_averages_over_tokens_not_over_texts():
    # 3 tokens of probability 1/2 and 1 token of probability 1/8: (2^3 * 8)^(1/4)
    assert perplexity(3 * log(2) + log(8), 4) == pytest.approx(2 ** (6 / 4))
    assert perplexity(3 * log(2) + log(8), 4) != pytest.approx((exp(log(2)) + exp(log(8))) / 2)


def test_perplexity_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one token"):
        perplexity(0.0, 0)
