"""Domain-adaptive pre-training: the plain text of the training documents, every token of it.

Some documents are held out, chosen by a hash of their id, so that every run of a corpus measures
itself on the same ones. So is some of the general text, where there is any: what the model gains on
one is to be weighed against what it loses on the other.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.config import FinetuneConfig, Objective
from pipeline_lib.errors import InputError
from pipeline_lib.progress import Progress, phase
from pipeline_lib.raft.derived.pretraining import PRETRAINING_FILE, iter_pretraining
from pipeline_lib.raft.keys import unit_interval
from pipeline_lib.training.blocks import (
    cut_blocks,
    end_of_document_id,
    take_tokens,
    tokenize_texts,
)
from pipeline_lib.training.examples import Example, ExampleFile, ExampleWriter
from pipeline_lib.training.objectives.base import Prepared, PrepareJob
from pipeline_lib.training.replay import ReplayText, read_replay

if TYPE_CHECKING:
    from pipeline_lib.training.loop import LoopMixin
    from pipeline_lib.training.plan import TrainingPlan

logger = logging.getLogger(__name__)

DOMAIN, GENERAL = "domain", "general"
"""The two kinds of text, told apart as tasks are."""
_HELD_OUT_SHARE = 0.05
_MOST_HELD_OUT_DOCUMENTS = 200
_MOST_HELD_OUT_BLOCKS = 64
"""Of each kind: they are read at every validation."""


class Pretraining:
    """Learns all tokens of the corpus' text: the loss is their mean negative log-likelihood."""

    name: Objective = "dapt"

    def check(self, config: FinetuneConfig, dataset: Path) -> None:  # noqa: ARG002
        """See `TrainingObjective`."""
        _document_ids(dataset)

    def prepare(self, job: PrepareJob) -> Prepared:
        """See `TrainingObjective`.

        Raises:
            InputError: the dataset has no plain text, or of one document only; or the general text
                cannot be read.
        """
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(job.base.path)
        files = {split: job.run_folder / f"{split}.arrow" for split in ("train", "validation")}
        prepared = Prepared(files=files)
        with ExampleWriter(files["train"]) as train, ExampleWriter(files["validation"]) as held_out:
            text = _Blocks(tokenizer, job.config.batch.max_seq_len, train, held_out)
            _write_domain(job, text, prepared)
            if job.config.pretraining.replay_path is not None:
                _write_general(job, text, prepared)
        prepared.counts["num_train_rows"] = train.num_examples
        prepared.counts["num_validation_rows"] = held_out.num_examples
        end = tokenizer.convert_ids_to_tokens(text.end_id)
        prepared.details["end_of_document"] = end
        return prepared

    def make_trainer(self, plan: TrainingPlan, model: Any, tokenizer: Any) -> LoopMixin:  # noqa: ARG002
        """See `TrainingObjective`."""
        from pipeline_lib.training.objectives.pretraining_trainer import PretrainingTrainer

        train, validation = (ExampleFile(plan.files[split]) for split in ("train", "validation"))
        return PretrainingTrainer(plan, model, train, validation)


class _Blocks:
    """Turns texts into blocks, and writes them down."""

    def __init__(
        self, tokenizer: Any, block_tokens: int, train: ExampleWriter, held_out: ExampleWriter
    ) -> None:
        self._tokenizer = tokenizer
        self._block_tokens = block_tokens
        self._train = train
        self._held_out = held_out
        self.end_id = end_of_document_id(tokenizer)

    def write_train(self, kind: str, texts: Iterable[str], at_most: int | None = None) -> int:
        """Write training blocks, of `at_most` learned tokens, and say how many tokens they have."""
        blocks = self._cut(texts)
        if at_most is not None:
            blocks = take_tokens(blocks, at_most)
        return _write(self._train, kind, blocks)

    def write_held_out(self, kind: str, texts: Iterable[str]) -> int:
        """Write blocks for validation, not too many."""
        return _write(self._held_out, kind, islice(self._cut(texts), _MOST_HELD_OUT_BLOCKS))

    def _cut(self, texts: Iterable[str]) -> Iterator[list[int]]:
        return cut_blocks(tokenize_texts(texts, self._tokenizer), self.end_id, self._block_tokens)


def _write(writer: ExampleWriter, kind: str, blocks: Iterable[list[int]]) -> int:
    before = writer.num_loss_tokens
    for number, block in enumerate(blocks):
        writer.write(Example(f"{kind}-{number}", block, num_prompt_tokens=1, task=kind))
    return writer.num_loss_tokens - before


def _document_ids(dataset: Path) -> list[str]:
    path = dataset / PRETRAINING_FILE
    ids = [document.document_id for document in iter_pretraining(path)] if path.exists() else []
    if len(ids) < 2:
        raise InputError(
            f"The dataset has the plain text of {len(ids)} training documents, but the stage "
            "'dapt' needs two: one to learn from, and one to measure on",
            hint="Set synthesize.tasks.pretraining to true, which writes it, and synthesize again.",
        )
    return ids


def _counted(texts: Iterable[str], progress: Progress) -> Iterator[str]:
    for text in texts:
        yield text
        progress.advance()


def _write_domain(job: PrepareJob, text: _Blocks, prepared: Prepared) -> None:
    path = job.dataset / PRETRAINING_FILE
    ids = _document_ids(job.dataset)
    held_out = _held_out(ids)
    measured = (d.text for d in iter_pretraining(path) if d.document_id in held_out)
    learned = (d.text for d in iter_pretraining(path) if d.document_id not in held_out)
    with phase(job.progress, "Tokenizing", len(ids) - len(held_out), "documents") as progress:
        text.write_held_out(DOMAIN, measured)
        num_tokens = text.write_train(DOMAIN, _counted(learned, progress))
    prepared.counts |= {
        "num_domain_documents": len(ids) - len(held_out),
        "num_held_out_documents": len(held_out),
        "num_domain_tokens": num_tokens,
    }


def _write_general(job: PrepareJob, text: _Blocks, prepared: Prepared) -> None:
    config = job.config.pretraining
    path = Path(config.replay_path or "").expanduser()
    found = {replay.text_id: replay for replay in read_replay(path)}
    if len(found) < 2:
        raise InputError(
            f"pretraining.replay_path {str(path)!r} holds {len(found)} texts, but two are needed: "
            "one to learn from, and one to measure on",
            hint="Add files, or use .jsonl with a 'text' in each line.",
        )
    held_out = _held_out(found)
    # A share of what is trained on, hence relative to the rest: a tenth of all is a ninth of it.
    wanted = round(
        prepared.counts["num_domain_tokens"] * config.replay_share / (1 - config.replay_share)
    )

    def place(replay: ReplayText) -> float:
        return unit_interval(job.config.seed, "replay", replay.text_id)

    learned = sorted((r for r in found.values() if r.text_id not in held_out), key=place)
    text.write_held_out(GENERAL, (r.text for r in found.values() if r.text_id in held_out))
    num_tokens = text.write_train(GENERAL, (replay.text for replay in learned), at_most=wanted)
    if num_tokens < wanted:
        logger.warning(
            "The general text has %d tokens; a share of %g of all would be %d",
            num_tokens,
            config.replay_share,
            wanted,
        )
    prepared.counts["num_general_tokens"] = num_tokens


def _held_out(ids: Iterable[str]) -> set[str]:
    """The documents to measure on: a share of them, the same in every run."""
    ordered = sorted(ids, key=lambda document_id: unit_interval("held out", document_id))
    number = min(_MOST_HELD_OUT_DOCUMENTS, max(1, round(_HELD_OUT_SHARE * len(ordered))))
    return set(ordered[:number])
