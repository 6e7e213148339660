"""Cross-encoders: one of random weights from disk, and one made by hand whose scores are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from pipeline_lib.config import RerankConfig, RetrievalConfig
from pipeline_lib.errors import ConfigError, ModelNotFoundError
from pipeline_lib.retrieval.reranking import (
    CrossEncoderReranker,
    open_reranker,
    reranker_inputs,
)
from pipeline_lib.settings import Settings

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "what", "is", "good", "better", "best", "bad"]


def save_cross_encoder(folder: Path, num_labels: int = 1) -> torch.nn.Module:
    """A BERT of one layer and random weights over `WORDS`, as sentence-transformers saves it."""
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=32,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(WORDS),
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=32,
            num_labels=num_labels,
        )
    )
    model.save_pretrained(folder)
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cross-encoder"


def test_scores_are_the_models_logits_in_the_order_of_the_pairs(folder: Path):
    model = save_cross_encoder(folder)
    pairs = [("what is", "good"), ("what is", "better better bad bad"), ("bad", "")]
    expected = []
    for query, passage in pairs:
        first, second = ([WORDS.index(w) for w in text.split()] for text in (query, passage))
        ids = [2, *first, 3, *second, 3]
        types = [0] * (len(first) + 2) + [1] * (len(second) + 1)
        with torch.inference_mode():
            output = model(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([types]))
        expected.append(output.logits.item())
    reranker = CrossEncoderReranker(folder, "identity")
    assert reranker.scores(pairs) == pytest.approx(expected, abs=1e-4)
    assert reranker.scores(pairs[::-1]) == reranker.scores(pairs)[::-1]
    assert reranker.identity == "identity"


def test_a_batch_does_not_change_its_scores(folder: Path):
    save_cross_encoder(folder)
    reranker = CrossEncoderReranker(folder, "identity")
    pairs = [("what is", " ".join(["good", "best"] * (n % 7))) for n in range(70)]
    assert reranker.scores(pairs) == [reranker.scores([pair])[0] for pair in pairs]


def test_a_model_is_loaded_only_for_the_first_pair(tmp_path: Path):
    reranker = CrossEncoderReranker(tmp_path / "nowhere", "identity")
    assert reranker.scores([]) == []
    with pytest.raises(ConfigError, match=r"reranker in .*nowhere cannot be loaded"):
        reranker.scores([("a", "b")])


def test_a_passage_longer_than_the_model_reads_is_cut(folder: Path):
    save_cross_encoder(folder)
    reranker = CrossEncoderReranker(folder, "identity")
    [cut, longer] = reranker.scores([("what", "good " * 100), ("what", "good " * 1_000)])
    assert cut == longer


def test_a_classifier_is_refused(folder: Path):
    save_cross_encoder(folder, num_labels=3)
    with pytest.raises(ConfigError, match="gives 3 scores for a pair, not one"):
        CrossEncoderReranker(folder, "identity").scores([("what", "good")])


def test_scores_that_are_no_numbers_are_refused(folder: Path):
    model = save_cross_encoder(folder)
    with torch.no_grad():
        model.classifier.weight.fill_(float("nan"))
    model.save_pretrained(folder)
    with pytest.raises(ConfigError, match="scores that are no numbers"):
        CrossEncoderReranker(folder, "identity").scores([("what", "good")])


def test_a_reranker_is_resolved_like_every_model(folder: Path, local_settings: Settings):
    save_cross_encoder(folder)
    opened = open_reranker(local_settings, RerankConfig(model=str(folder)))
    assert opened.identity.startswith("sha256:")
    (folder / "config.json").write_text(
        json.dumps(json.loads((folder / "config.json").read_text()) | {"changed": True})
    )
    assert open_reranker(local_settings, RerankConfig(model=str(folder))).identity != (
        opened.identity
    )


def test_a_stages_inputs_change_with_the_rerankers_content(folder: Path, local_settings: Settings):
    save_cross_encoder(folder)
    config = RetrievalConfig(rerank=RerankConfig(model=str(folder)))
    identity = open_reranker(local_settings, config.rerank).identity
    assert reranker_inputs(local_settings, config) == {"reranker": identity}
    assert reranker_inputs(local_settings, RetrievalConfig()) == {}


def test_pickled_weights_are_refused(folder: Path, local_settings: Settings):
    save_cross_encoder(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelNotFoundError, match="has no safetensors"):
        open_reranker(local_settings, RerankConfig(model=str(folder)))
