"""The tokenizer in a model's folder: loading, limits, identity."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from pipeline_lib.config import ChunkConfig
from pipeline_lib.corpus.chunking import check_fits_model, load_tokenizer, tokenizer_identity
from pipeline_lib.errors import ConfigError, ModelNotFoundError


def test_the_tokenizer_is_read_from_the_models_folder(model_folder: Path) -> None:
    assert len(load_tokenizer(model_folder).encode("three small words")) == 3


@pytest.mark.parametrize("content", [None, "{}", "not json"])
def test_a_missing_or_broken_tokenizer_file_is_an_error_that_names_the_folder(
    model_folder: Path, content: str | None
) -> None:
    file = model_folder / "tokenizer.json"
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    with pytest.raises(ModelNotFoundError, match=r"embedding-model has no usable tokenizer\.json"):
        load_tokenizer(model_folder)


def test_chunks_longer_than_the_model_reads_are_refused(
    model_folder: Path, tokenizers_by_name: dict[str, Tokenizer]
) -> None:
    tokenizer = tokenizers_by_name["letters"]  # adds two special tokens; the model reads 64
    check_fits_model(ChunkConfig(size_tokens=62), model_folder, tokenizer)
    with pytest.raises(ConfigError, match=r"size_tokens is 63, .* reads at most 62 tokens"):
        check_fits_model(ChunkConfig(size_tokens=63), model_folder, tokenizer)
    (model_folder / "sentence_bert_config.json").unlink()
    check_fits_model(ChunkConfig(size_tokens=63), model_folder, tokenizer)


def save(tokenizer: Tokenizer, folder: Path) -> Path:
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_truncation_padding_and_special_tokens_do_not_change_a_tokenizers_identity(
    tokenizers_by_name: dict[str, Tokenizer], tmp_path: Path
) -> None:
    truncating = tokenizers_by_name["letters"]
    plain = Tokenizer.from_str(truncating.to_str())
    plain.no_truncation()
    plain.no_padding()
    assert tokenizer_identity(save(truncating, tmp_path / "a")) == tokenizer_identity(
        save(plain, tmp_path / "b")
    )


def test_another_vocabulary_or_normalizer_is_another_tokenizer(
    tokenizers_by_name: dict[str, Tokenizer], tmp_path: Path
) -> None:
    identities = {
        tokenizer_identity(save(tokenizer, tmp_path / name))
        for name, tokenizer in tokenizers_by_name.items()
    }
    cased = Tokenizer.from_str(
        tokenizers_by_name["letters"].to_str().replace('"lowercase":true', '"lowercase":false')
    )
    identities.add(tokenizer_identity(save(cased, tmp_path / "cased")))
    assert len(identities) == len(tokenizers_by_name) + 1


def test_the_identity_of_a_folder_without_tokenizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no usable tokenizer\.json"):
        tokenizer_identity(tmp_path)
