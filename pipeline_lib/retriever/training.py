"""Fine-tuning by sentence-transformers' trainer, in this process; the best epoch is kept.

There are no checkpoints to resume from. Tuning takes minutes (its texts are short and few, its
models small), and going on in the middle of it needs the optimizer's state, which torch stores as a
pickle. A run that was killed starts again with the same outcome.
"""

from __future__ import annotations

import logging
import math
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline_lib.config import TuneRetrieverConfig
from pipeline_lib.errors import ConfigError, NonFiniteLossError
from pipeline_lib.generation.hardware import best_device, best_precision
from pipeline_lib.progress import Progress, phase
from pipeline_lib.retrieval.sentence_models import load_embedding_model
from pipeline_lib.retriever.mining import TrainingExample
from pipeline_lib.retriever.pairs import Passages
from pipeline_lib.retriever.trainer import make_trainer
from pipeline_lib.retriever.validation import Validation, ValidationScore

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "*.model",
)
_UNSAFE_SUFFIXES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
_ENCODE_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The outcome of a training."""

    model_path: Path
    """Folder of the best epoch's model."""
    best_epoch: int
    """From 1."""
    untuned: ValidationScore
    epochs: tuple[ValidationScore, ...]
    """After each epoch."""
    log: tuple[dict[str, float], ...]
    """The trainer's: loss, learning rate, gradient norm by step."""
    num_steps: int
    num_parameters: int
    device: str
    precision: str


def train(
    base: Path,
    examples: Sequence[TrainingExample],
    passages: Passages,
    validation: Validation,
    config: TuneRetrieverConfig,
    folder: Path,
    progress: Progress,
) -> Trained:
    """Tune the model in `base`; everything it writes goes below `folder`.

    On a CPU, equal arguments give equal weights, to the last bit with equal thread counts. The
    process' random state is as before afterwards.

    Raises:
        ConfigError: the model cannot be loaded, or is shorter than a Matryoshka dimension.
        NonFiniteLossError: the loss became NaN or infinite.
    """
    import torch

    device = best_device()
    precision = _precision(device, config)
    with _own_random_state(config.seed):
        model = load_embedding_model(base, str(device))
        stored_dtype = next(model.parameters()).dtype
        model.float()
        with phase(progress, "Training", None, "steps"):
            keeper = _EpochKeeper(model, validation, folder, precision)
            untuned = keeper.measure()
            trainer = make_trainer(model, examples, passages, config, folder / "trainer", precision)
            trainer.add_callback(_callback(keeper, progress))
            trainer.train()
    target = folder / "model"
    if stored_dtype == torch.float32:
        keeper.best_folder.rename(target)
    else:
        best = load_embedding_model(keeper.best_folder, "cpu")
        best.to(stored_dtype)
        best.save_pretrained(str(target), create_model_card=False)
    _finish(target, base)
    return Trained(
        model_path=target,
        best_epoch=keeper.best_epoch,
        untuned=untuned,
        epochs=tuple(keeper.scores),
        log=tuple(_numbers(entry) for entry in trainer.state.log_history),
        num_steps=trainer.state.global_step,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        device=device.type,
        precision=precision,
    )


class _EpochKeeper:
    """Measures the model after each epoch and keeps the best one's files."""

    def __init__(
        self, model: SentenceTransformer, validation: Validation, folder: Path, precision: str
    ) -> None:
        self._model = model
        self._validation = validation
        self._folder = folder
        self._precision = precision
        self.scores: list[ValidationScore] = []
        self.best_epoch = 0

    @property
    def best_folder(self) -> Path:
        """Where the best epoch's model is."""
        return self._folder / f"epoch-{self.best_epoch}"

    def measure(self) -> ValidationScore:
        """The model as it is now."""
        import torch

        device = self._model.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self._precision == "bf16"):
            return self._validation.score(
                lambda texts: self._encode(texts, is_query=True),
                lambda texts: self._encode(texts, is_query=False),
            )

    def end_epoch(self) -> ValidationScore:
        """Measure; keep the model if it is the best so far, those before it no longer."""
        score = self.measure()
        self.scores.append(score)
        if self.best_epoch == 0 or score.is_better_than(self.scores[self.best_epoch - 1]):
            shutil.rmtree(self.best_folder, ignore_errors=True)
            self.best_epoch = len(self.scores)
            self._model.save_pretrained(str(self.best_folder), create_model_card=False)
        return score

    def _encode(self, texts: list[str], *, is_query: bool) -> npt.NDArray[np.float32]:
        encode = self._model.encode_query if is_query else self._model.encode_document
        vectors = encode(
            texts, batch_size=_ENCODE_BATCH, show_progress_bar=False, normalize_embeddings=True
        )
        return np.asarray(vectors, dtype=np.float32)


def _callback(keeper: _EpochKeeper, progress: Progress) -> Any:
    from transformers import TrainerCallback

    class Follow(TrainerCallback):  # type: ignore[misc]
        """Passes on where the training stands, and measures after each epoch."""

        def on_train_begin(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
            progress.start("Training", state.max_steps, "steps")

        def on_log(self, _args: Any, state: Any, *_: Any, logs: Any, **__: Any) -> None:
            loss = logs.get("loss")
            if loss is None:
                return
            if not math.isfinite(loss):
                raise NonFiniteLossError(
                    f"The loss became {loss} in step {state.global_step}",
                    hint="Lower tune_retriever.learning_rate, or set precision to 'fp32'.",
                )
            progress.note(f"loss {loss:.4f}")

        def on_step_end(self, *_: Any, **__: Any) -> None:
            progress.advance()

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            score = keeper.end_epoch()
            logger.info(
                "Epoch %d: nDCG@10 %.4f, loss %.4f on the validation questions",
                len(keeper.scores),
                score.ndcg,
                score.loss,
            )

    return Follow()


def _finish(target: Path, base: Path) -> None:
    """Take the tokenizer's files over from the base model, and look for pickles.

    Chunks were measured with that tokenizer, and saving it anew writes the same tokenizer in other
    words.

    Raises:
        ConfigError: a module of the model is stored as a pickle.
    """
    for pattern in _TOKENIZER_FILES:
        for file in base.glob(pattern):
            if (target / file.name).is_file():
                shutil.copyfile(file, target / file.name)
    unsafe = [path.name for path in target.rglob("*") if path.suffix in _UNSAFE_SUFFIXES]
    if unsafe:
        raise ConfigError(
            f"The embedding model stores {', '.join(sorted(unsafe))}, which are pickles",
            hint="Choose a model whose modules are stored as safetensors.",
        )


def _precision(device: Any, config: TuneRetrieverConfig) -> str:
    return best_precision(device) if config.precision == "auto" else config.precision


def _numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in entry.items() if isinstance(value, int | float)}


@contextmanager
def _own_random_state(seed: int) -> Iterator[None]:
    """Seeded generators inside, and the process' own state again afterwards."""
    import torch
    from transformers import set_seed

    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        set_seed(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
