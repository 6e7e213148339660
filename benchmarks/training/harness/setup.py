"""What is measured: options of the command line, and the model and rows that they ask for."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.training.harness.job import ArmJob, ArmName
from benchmarks.training.harness.models import SHAPES, model_folder
from benchmarks.training.rows import (
    RowShape,
    TokenCounts,
    count_tokens,
    encode_up_to,
    fit_shape,
    make_rows,
    read_dataset_rows,
)
from pipeline_lib.config.base import BUNDLED_LANGUAGE_MODEL
from pipeline_lib.settings import load_settings
from pipeline_lib.training.examples import write_examples

_CHOICES = {"method": ("lora", "full"), "precision": ("auto", "bf16", "fp32")}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to train on what, whichever arm does it."""

    model: str = BUNDLED_LANGUAGE_MODEL
    dataset: str | None = None
    rows: int = 4
    documents: int = 5
    prompt_tokens: int = 850
    answer_words: int = 34
    questions_per_context: int = 1
    max_seq_len: int = 2048
    micro_batch: int = 2
    steps: int = 3
    warmup: int = 1
    method: str = "lora"
    precision: str = "auto"
    gradient_checkpointing: bool = False
    ranks: int = 1
    zero_stage: int = 0

    def check(self) -> None:
        """Refuse what could not be measured.

        Raises:
            ValueError: a step is not made of whole micro batches, or no step is left to measure.
        """
        per_pass = self.micro_batch * self.ranks
        if self.rows % per_pass:
            raise ValueError(
                f"--rows ({self.rows}) must be a multiple of --micro-batch x ranks ({per_pass})"
            )
        if not 1 <= self.warmup < self.steps:
            raise ValueError(
                f"of {self.steps} steps, {self.warmup} warm up: warm up for at least one, and "
                "leave at least one to measure"
            )


def add_options(
    parser: argparse.ArgumentParser, *, leave_out: frozenset[str] = frozenset()
) -> None:
    """The options of every benchmark here, but for those that one sets itself."""
    helps = {
        "model": "bundled:…, a hub id, a folder, or random:<shape> with random weights of "
        f"{', '.join(SHAPES)}",
        "dataset": "a dataset artifact's folder, reference, or file of rows; else rows are made",
        "rows": "rows of a step",
        "documents": "passages of a made row",
        "prompt_tokens": "about so many in a made row",
        "answer_words": "of a made row; a word is about two tokens",
        "questions_per_context": "made rows with the same passages",
        "max_seq_len": "longest row (tokens); longer ones are left out before any arm sees them",
        "micro_batch": "rows per forward pass and rank",
        "steps": "of each run, the warm-up included",
        "warmup": "steps of each run that are not measured",
        "gradient_checkpointing": "in the product's own path",
        "ranks": "of the product's own path",
        "zero_stage": "of the product's own path",
    }
    for field in fields(Options):
        if field.name in leave_out:
            continue
        flag = f"--{field.name.replace('_', '-')}"
        if field.name in _CHOICES:
            parser.add_argument(flag, choices=_CHOICES[field.name], default=field.default)
        elif isinstance(field.default, bool):
            parser.add_argument(flag, action="store_true", help=helps[field.name])
        else:
            kind = int if isinstance(field.default, int) else str
            parser.add_argument(flag, type=kind, default=field.default, help=helps[field.name])


def options_of(arguments: argparse.Namespace) -> Options:
    """The options among the arguments; those left out keep their defaults."""
    names = {field.name for field in fields(Options)}
    return Options(**{name: value for name, value in vars(arguments).items() if name in names})


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Options carried out: files that every arm reads."""

    options: Options
    model_path: Path
    rows_path: Path
    validation_path: Path
    device: str
    precision: str
    tokens: TokenCounts
    """Of a step."""

    def job(self, arm: ArmName, run_folder: Path) -> ArmJob:
        """What an arm is to do."""
        return ArmJob.model_validate(
            {
                "arm": arm,
                "model_path": self.model_path,
                "rows_path": self.rows_path,
                "validation_path": self.validation_path,
                "run_folder": run_folder,
                "device": self.device,
                "precision": self.precision,
                "num_rows": self.options.rows,
                "num_steps": self.options.steps,
                "micro_batch": self.options.micro_batch,
                "max_seq_len": self.options.max_seq_len,
                "method": self.options.method,
                "gradient_checkpointing": self.options.gradient_checkpointing,
                "num_ranks": self.options.ranks,
                "zero_stage": self.options.zero_stage,
            }
        )

    def facts(self) -> dict[str, Any]:
        """For the log."""
        return {
            "options": asdict(self.options),
            "device": self.device,
            "precision": self.precision,
            "tokens_per_step": asdict(self.tokens),
        }

    def __str__(self) -> str:
        options, tokens = self.options, self.tokens
        rows = options.dataset or (
            f"made rows, {options.documents} documents, "
            f"{options.questions_per_context} questions a context"
        )
        return (
            f"{options.model}, {options.method}, {self.precision} on {self.device}; {rows}\n"
            f"a step: {tokens.rows} rows, {options.micro_batch} at a time; {tokens.input:,} input "
            f"tokens, {tokens.answer:,} of them learned; {tokens.shared:,} when contexts are shared"
        )


def prepare(options: Options, folder: Path) -> Setup:
    """Fetch or make the model, make or read the rows, and write their examples to a folder.

    Raises:
        ValueError: the options contradict each other, or too few rows fit.
    """
    from transformers import AutoTokenizer

    from pipeline_lib.generation.hardware import best_device, best_precision

    options.check()
    settings = load_settings()
    model_path = model_folder(settings, options.model)
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    if options.dataset is not None:
        rows = read_dataset_rows(settings, options.dataset)
    else:
        shape = RowShape(
            num_rows=options.rows,
            num_documents=options.documents,
            answer_words=options.answer_words,
            questions_per_context=options.questions_per_context,
        )
        rows = make_rows(fit_shape(shape, tokenizer, options.prompt_tokens))
    examples = encode_up_to(rows, tokenizer, options.rows, options.max_seq_len)
    folder.mkdir(parents=True, exist_ok=True)
    write_examples(folder / "rows.arrow", examples)
    shortest = min(examples, key=lambda example: len(example.input_ids))
    write_examples(folder / "validation.arrow", [shortest])
    device = best_device()
    precision = best_precision(device) if options.precision == "auto" else options.precision
    return Setup(
        options=options,
        model_path=model_path,
        rows_path=folder / "rows.arrow",
        validation_path=folder / "validation.arrow",
        device=device.type,
        precision=precision,
        tokens=count_tokens(examples),
    )
