"""How sentence-transformers' trainer is set up: columns, prompts, loss, batches.

The loss is MultipleNegativesRankingLoss: each question against its own passage, its hard negatives,
and the passages of all other questions in the batch (Henderson et al. 2017). A batch never holds a
text twice, so that no question's passage is another's negative because both rest on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.config import TuneRetrieverConfig
from pipeline_lib.errors import ConfigError
from pipeline_lib.retriever.mining import TrainingExample
from pipeline_lib.retriever.pairs import Passages

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_QUERY_PROMPTS = ("query",)
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")
"""Names under which sentence-transformers looks for a model's prompts, in order."""


def make_trainer(
    model: SentenceTransformer,
    examples: Sequence[TrainingExample],
    passages: Passages,
    config: TuneRetrieverConfig,
    folder: Path,
    precision: str,
) -> Any:
    """A `SentenceTransformerTrainer`, ready to train; writes nothing but below `folder`.

    Raises:
        ConfigError: a Matryoshka dimension exceeds the model's.
    """
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.base.sampler import BatchSamplers
    from transformers import PrinterCallback

    columns = _columns(examples, passages)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=config.batch_size,
        num_train_epochs=config.num_epochs,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_fraction,  # a value below 1 is a share of all steps
        weight_decay=0.0,
        bf16=precision == "bf16",
        use_cpu=model.device.type == "cpu",
        seed=config.seed,
        data_seed=config.seed,
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        prompts=_prompts(model, columns),
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=model.device.type == "cuda",
    )
    # One GPU even where there are more: DataParallel would change what a batch is.
    arguments._n_gpu = min(1, arguments.n_gpu)

    class Trainer(SentenceTransformerTrainer):  # type: ignore[misc]
        def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
            """None: the stage writes the card, and this one embeds examples for its own."""

    trainer = Trainer(
        model=model, args=arguments, train_dataset=_dataset(columns), loss=_loss(model, config)
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _columns(examples: Sequence[TrainingExample], passages: Passages) -> dict[str, list[str]]:
    """`anchor`, `positive`, `negative_1`, …: the order of columns is what the loss goes by."""
    columns = {
        "anchor": [example.pair.question for example in examples],
        "positive": [passages.text(example.pair.chunk_id) for example in examples],
    }
    for number in range(len(examples[0].negatives)):
        texts = [passages.text(example.negatives[number]) for example in examples]
        columns[f"negative_{number + 1}"] = texts
    return columns


def _dataset(columns: dict[str, list[str]]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict(columns)


def _prompts(model: SentenceTransformer, columns: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Column to the prompt that search puts before such texts, so that training does too."""
    query, document = (_prompt(model, names) for names in (_QUERY_PROMPTS, _DOCUMENT_PROMPTS))
    prompts = {column: query if column == "anchor" else document for column in columns}
    return {column: prompt for column, prompt in prompts.items() if prompt}


def _prompt(model: SentenceTransformer, names: Sequence[str]) -> str:
    """The prompt of the first name that the model has, else its default prompt."""
    prompts: Mapping[str, str] = model.prompts
    name = next((name for name in names if name in prompts), model.default_prompt_name)
    return prompts.get(name or "", "")


def _loss(model: SentenceTransformer, config: TuneRetrieverConfig) -> Any:
    from sentence_transformers.sentence_transformer.losses import (
        MatryoshkaLoss,
        MultipleNegativesRankingLoss,
    )

    ranking = MultipleNegativesRankingLoss(model, scale=config.scale)
    if not config.matryoshka_dims:
        return ranking
    dimension = model.get_embedding_dimension()
    if dimension is None or max(config.matryoshka_dims) > dimension:
        raise ConfigError(
            f"matryoshka_dims {list(config.matryoshka_dims)} do not fit vectors of {dimension} "
            "dimensions",
            hint="Give dimensions below the model's own, for example its half and its quarter.",
        )
    dims = sorted({dimension, *config.matryoshka_dims}, reverse=True)
    return MatryoshkaLoss(model, ranking, matryoshka_dims=dims)
