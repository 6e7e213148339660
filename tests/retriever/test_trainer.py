"""What the trainer is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline_lib.config import TuneRetrieverConfig
from pipeline_lib.retriever.mining import TrainingExample
from pipeline_lib.retriever.pairs import Pair, Passages
from pipeline_lib.retriever.trainer import make_trainer


@pytest.fixture
def examples(make_pair: Callable[..., Pair]) -> list[TrainingExample]:
    """Two questions about one passage, and one about another."""
    places = ("chunk-00", "chunk-00", "chunk-01")
    return [
        TrainingExample(
            pair=make_pair(row_id=f"row-{n}", question=f"qu{'abc'[n]}", chunk_id=chunk_id),
            negatives=("chunk-02", "chunk-03"),
        )
        for n, chunk_id in enumerate(places)
    ]


def test_columns_are_question_passage_negatives_and_no_text_comes_twice_in_a_batch(
    tiny_embedder: Path,
    tmp_path: Path,
    examples: list[TrainingExample],
    make_passages: Callable[..., Passages],
) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_embedder), device="cpu", local_files_only=True)
    passages = make_passages("paa", "pab", "pac", "pad")
    plain = [TrainingExample(pair=each.pair, negatives=()) for each in examples]
    config = TuneRetrieverConfig(batch_size=3, precision="fp32")
    trainer = make_trainer(model, plain, passages, config, tmp_path, "fp32")
    sizes = sorted(len(batch) for batch in trainer.get_train_dataloader().batch_sampler)
    assert sizes == [1, 2]  # the two questions about one passage never meet
    trainer = make_trainer(model, examples, passages, config, tmp_path, "fp32")
    assert trainer.train_dataset.column_names == [
        "anchor",
        "positive",
        "negative_1",
        "negative_2",
    ]
    assert trainer.train_dataset[2] == {
        "anchor": "quc",
        "positive": "pab",
        "negative_1": "pac",
        "negative_2": "pad",
    }


def test_the_models_own_prompts_are_put_before_questions_and_passages(
    tiny_embedder: Path,
    tmp_path: Path,
    examples: list[TrainingExample],
    make_passages: Callable[..., Passages],
) -> None:
    """As search does: else the tuned model has learnt another input than it is asked with."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(
        str(tiny_embedder),
        device="cpu",
        local_files_only=True,
        prompts={"query": "query: ", "document": "passage: "},
    )
    passages = make_passages("paa", "pab", "pac", "pad")
    config = TuneRetrieverConfig(precision="fp32")
    trainer = make_trainer(model, examples, passages, config, tmp_path, "fp32")
    assert trainer.args.prompts == {
        "anchor": "query: ",
        "positive": "passage: ",
        "negative_1": "passage: ",
        "negative_2": "passage: ",
    }
