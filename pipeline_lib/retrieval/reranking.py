"""Reranking: a cross-encoder reads query and passage together, which no vector can."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline_lib.config import RerankConfig, RetrievalConfig
from pipeline_lib.errors import ConfigError
from pipeline_lib.generation.hardware import best_device, best_dtype
from pipeline_lib.models import resolve_model
from pipeline_lib.progress import Progress, phase
from pipeline_lib.retrieval.hits import Hit, renumbered
from pipeline_lib.retrieval.sentence_models import load_cross_encoder
from pipeline_lib.settings import Settings

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

logger = logging.getLogger(__name__)

_BATCH_PAIRS = 32
_SCORE_DIGITS = 6
_LOADING = threading.Lock()
"""transformers builds models through process-wide state: two threads must not load at once."""


class Reranker(Protocol):
    """Judges how well passages answer queries."""

    @property
    def identity(self) -> str:
        """Equal identities give equal scores."""

    def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """For each (query, passage), in order; higher is better."""


class CrossEncoderReranker:
    """A sentence-transformers CrossEncoder; loaded when the first pair comes.

    Scores are the model's output before any activation: a sigmoid keeps the order but rounds to 1
    what is merely very good.

    Safe to share between threads: they take turns, as the tokenizer is not reentrant.

    Args:
        path: folder of the model, with safetensors.
        identity: the model's content hash.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self._path = path
        self._identity = identity
        self._turn = threading.RLock()
        self._loaded: CrossEncoder | None = None

    @property
    def identity(self) -> str:
        """The model's content hash."""
        return self._identity

    def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """One score per (query, passage), in order; what is longer than the model reads is cut.

        Raises:
            ConfigError: the model cannot be loaded, gives more than one score for a pair, or one
                that is no number.
        """
        if not pairs:
            return []
        import torch

        with self._turn:
            outputs = self._model().predict(
                list(pairs),
                batch_size=_BATCH_PAIRS,
                show_progress_bar=False,
                activation_fn=torch.nn.Identity(),
                convert_to_numpy=True,
            )
        # Longer ones depend on the padding of the batch, so on which other pairs were asked for.
        scores = [float(f"{output:.{_SCORE_DIGITS - 1}g}") for output in outputs.tolist()]
        if not all(map(math.isfinite, scores)):
            raise ConfigError(
                f"The reranker in {self._path} gives scores that are no numbers",
                hint="Its weights are damaged or need another precision; choose another model.",
            )
        return scores

    def _model(self) -> CrossEncoder:
        with self._turn:
            if self._loaded is None:
                with _LOADING:
                    self._loaded = _load(self._path)
            return self._loaded


def rerank(
    queries: Sequence[str],
    rankings: Sequence[Sequence[Hit]],
    reranker: Reranker,
    progress: Progress,
) -> list[list[Hit]]:
    """Every query's hits in the order of the reranker's scores; equal ones stay as they were."""
    pairs = [(q, hit.text) for q, hits in zip(queries, rankings, strict=True) for hit in hits]
    with phase(progress, "Reranking", len(pairs), "passages") as ticker:
        scores = iter(reranker.scores(pairs))
        ticker.advance(len(pairs))
    reranked = []
    for hits in rankings:
        scored = [_rescored(hit, next(scores)) for hit in hits]
        reranked.append(renumbered(sorted(scored, key=lambda hit: -hit.score)))
    return reranked


def open_reranker(
    settings: Settings, config: RerankConfig, progress: Progress | None = None
) -> CrossEncoderReranker:
    """The configured cross-encoder, brought to this machine but not loaded yet.

    Raises:
        ModelNotFoundError: the reference leads nowhere, or to something without safetensors.
    """
    model = resolve_model(settings, config.model, progress)
    return CrossEncoderReranker(model.path, model.identity)


def reranker_inputs(settings: Settings, config: RetrievalConfig) -> dict[str, str]:
    """What a stage that searches adds to its inputs: the reranker's content hash, if it has one.

    Its name alone, which the configuration holds, would not tell that a folder's content changed.

    Raises:
        ModelNotFoundError: the reference leads nowhere, or to something without safetensors.
    """
    if not config.rerank.model:
        return {}
    return {"reranker": resolve_model(settings, config.rerank.model).identity}


def _rescored(hit: Hit, score: float) -> Hit:
    return replace(hit, score=score, rerank_score=score)


def _load(path: Path) -> CrossEncoder:
    device = best_device()
    options: dict[str, Any] = {"dtype": best_dtype(device)} if device.type != "cpu" else {}
    model = load_cross_encoder(path, str(device), **options)
    if model.num_labels != 1:
        raise ConfigError(
            f"The reranker in {path} gives {model.num_labels} scores for a pair, not one",
            hint="Give a model for ranking; those for classification have a score per class.",
        )
    return model
