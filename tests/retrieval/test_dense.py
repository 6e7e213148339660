"""The dense encoder on the real MiniLM, against sentence-transformers itself."""

from __future__ import annotations

import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipeline_lib.errors import ConfigError
from pipeline_lib.retrieval import dense as dense_module
from pipeline_lib.retrieval import dense_model
from pipeline_lib.retrieval.batching import TokenizedTexts, token_budget_batches
from pipeline_lib.retrieval.dense import DenseEncoder
from pipeline_lib.retrieval.dense_model import DenseModel, smallest_cosine

TEXTS = [
    "The with statement wraps the execution of a block with methods of a context manager.",
    "Lists are mutable sequences.",
    "An assignment expression binds a name while it is evaluated. " * 6,
    "Tuples cannot be changed.",
    "yield",
]


@pytest.fixture(scope="module")
def minilm(minilm_path: Path) -> DenseEncoder:
    return DenseEncoder(minilm_path, "minilm", batch_tokens=128)


@pytest.fixture(scope="module")
def reference(minilm_path: Path) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(minilm_path), device="cpu", local_files_only=True)
    return model.encode(TEXTS, show_progress_bar=False)


def test_batches_hold_every_index_once_longest_first_within_the_budget():
    lengths = [3, 9, 1, 4, 20, 4]
    # Padded sizes: 20 (more than the budget, alone), 9 + 4 would pad to 18, 4 + 4 + 3 pads to 12.
    assert list(token_budget_batches(lengths, 12)) == [[4], [1], [3, 5, 0], [2]]


def test_no_texts_make_no_batches():
    assert list(token_budget_batches([], 12)) == []


def test_vectors_match_sentence_transformers_in_the_order_given(
    minilm: DenseEncoder, reference: np.ndarray
):
    vectors = minilm.encode_documents(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (5, 384) == (5, minilm.dimension)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (vectors * reference).sum(axis=1).min() > 0.9995


def test_the_batch_budget_does_not_change_vectors(minilm_path: Path, minilm: DenseEncoder):
    small = minilm.encode_documents(TEXTS)
    large = DenseEncoder(minilm_path, "minilm", batch_tokens=100_000).encode_documents(TEXTS)
    assert (small * large).sum(axis=1).min() > 0.9995


def test_progress_counts_every_text_once(minilm: DenseEncoder):
    counted: list[int] = []
    minilm.encode_documents(TEXTS, counted.append)
    assert sum(counted) == len(TEXTS)
    assert len(counted) > 1


def test_no_texts_give_no_rows(minilm: DenseEncoder):
    assert minilm.encode_queries([]).shape == (0, 384)


def test_texts_beyond_the_models_reach_are_counted_in_a_warning(
    minilm: DenseEncoder, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING, logger="pipeline_lib.retrieval.dense"):
        minilm.encode_documents(["word " * 400, "short"])
    assert "1 of 2 texts are longer than the 256 tokens" in caplog.text


def test_a_query_prompt_is_put_before_queries_only(
    minilm_path: Path, minilm: DenseEncoder, tmp_path: Path
):
    folder = tmp_path / "prompted"
    shutil.copytree(minilm_path, folder, copy_function=lambda a, b: Path(b).symlink_to(a))
    config = folder / "config_sentence_transformers.json"
    values = json.loads(config.read_text())
    config.unlink()
    config.write_text(json.dumps(values | {"prompts": {"query": "search: ", "document": ""}}))
    prompted = DenseEncoder(folder, "prompted")

    queries = prompted.encode_queries(["lists"])
    assert (queries * minilm.encode_documents(["search: lists"])).sum() > 0.9995
    assert (queries * minilm.encode_documents(["lists"])).sum() < 0.99
    assert (
        prompted.encode_documents(["lists"]) * minilm.encode_documents(["lists"])
    ).sum() > 0.9995


def test_windows_that_are_tokenised_ahead_give_the_same_vectors(
    minilm: DenseEncoder, monkeypatch: pytest.MonkeyPatch
):
    whole = minilm.encode_documents(TEXTS)
    monkeypatch.setattr(dense_module, "TOKENIZE_WINDOW", 2)
    assert (minilm.encode_documents(TEXTS) * whole).sum(axis=1).min() > 0.9995


def test_a_text_is_tokenised_once(minilm_path: Path, monkeypatch: pytest.MonkeyPatch):
    encoder = DenseEncoder(minilm_path, "minilm", batch_tokens=32)
    tokenizer = encoder._model()._model.tokenizer
    seen: list[str] = []
    tokenize = type(tokenizer).__call__

    def count(self, text, *arguments, **options):
        seen.extend(text)
        return tokenize(self, text, *arguments, **options)

    monkeypatch.setattr(type(tokenizer), "__call__", count)
    encoder.encode_documents(TEXTS)
    assert sorted(seen) == sorted(TEXTS)


def test_padding_goes_to_the_side_that_the_tokenizer_says():
    tokens = TokenizedTexts({"input_ids": [[1], [2, 3, 4]]}, {"modality": "text"}, [1, 3], 0)
    right = tokens.batch([0, 1], {"input_ids": 9}, pads_left=False)
    left = tokens.batch([0, 1], {"input_ids": 9}, pads_left=True)
    assert right["input_ids"].tolist() == [[1, 9, 9], [2, 3, 4]]
    assert left["input_ids"].tolist() == [[9, 9, 1], [2, 3, 4]]
    assert right["modality"] == "text"


def test_half_precision_is_used_only_where_vectors_stay_what_they_are(
    minilm_path: Path, reference: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog
):
    import torch

    monkeypatch.setattr(dense_model, "best_dtype", lambda device: torch.bfloat16)
    fast = DenseModel(minilm_path)
    assert fast.number_format == "bfloat16"
    assert smallest_cosine(fast.encode(TEXTS, "document"), reference) > 0.999

    monkeypatch.setattr(dense_model, "LOWEST_COSINE", 0.9999999)
    strict = DenseModel(minilm_path)
    assert strict.number_format == "float32"
    assert "vectors change too much" in caplog.text
    assert smallest_cosine(strict.encode(TEXTS, "document"), reference) > 0.999999


def test_the_recipe_names_prompt_and_number_format(minilm: DenseEncoder):
    assert minilm.document_recipe.startswith("prompt='' format=")


def test_the_smallest_cosine_is_that_of_the_worst_row():
    one = np.array([[1, 0], [0, 2]], dtype=np.float32)
    other = np.array([[3, 0], [1, 1]], dtype=np.float32)
    assert smallest_cosine(one, other) == pytest.approx(0.5**0.5)
    assert np.isnan(smallest_cosine(one, other * np.nan))


def test_threads_may_share_an_encoder(minilm_path: Path, minilm: DenseEncoder):
    expected = minilm.encode_queries(TEXTS[:2])
    fresh = DenseEncoder(minilm_path, "minilm")
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: fresh.encode_queries(TEXTS[:2]), range(8)))
    assert all((vectors * expected).sum(axis=1).min() > 0.9995 for vectors in results)


def test_a_folder_without_a_model_is_a_configuration_error(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be loaded"):
        DenseEncoder(tmp_path, "nothing").encode_queries(["x"])
