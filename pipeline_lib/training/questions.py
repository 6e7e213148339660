"""Questions answered while training, to measure what the loss does not: quotes and answers.

The parent process chooses validation questions and writes them down with their encoded prompts; at
each validation the ranks share them out and answer greedily with the weights as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pipeline_lib.errors import InputError
from pipeline_lib.raft.keys import unit_interval
from pipeline_lib.raft.matching import token_f1
from pipeline_lib.raft.quotes import verify_quote
from pipeline_lib.raft.rendering import parse_answer
from pipeline_lib.raft.rows import Passage, iter_rows, split_file
from pipeline_lib.training.examples import encode_row

if TYPE_CHECKING:
    from pipeline_lib.training.objectives.base import PrepareJob

QUESTIONS = "questions"
"""The name of the file among those of a plan."""
_ROOM = 1.5
"""An answer may be longer than the longest reference, but a model that rambles is cut off."""


@dataclass(frozen=True)
class Question:
    """A validation question, ready to be asked."""

    prompt_ids: tuple[int, ...]
    passages: tuple[Passage, ...]
    final_answer: str
    num_target_tokens: int


def prepare_questions(job: PrepareJob) -> Path:
    """Choose and write down the validation questions of a run.

    The same ones whatever the rows' order; those whose prompt leaves no room for an answer are
    passed over.

    Raises:
        InputError: the validation rows hold no question that shows its proof.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.base.path)
    limit = job.config.batch.max_seq_len
    rows = iter_rows(job.dataset / split_file("validation"))
    asked = [row for row in rows if row.task == "answer" and row.oracle_present]
    asked.sort(key=lambda row: unit_interval(row.row_id, QUESTIONS))
    fitting: list[Question] = []
    for row in asked:
        if len(fitting) == job.config.supervised.num_generated:
            break
        example = encode_row(row, tokenizer)
        if len(example.input_ids) <= limit:
            prompt = tuple(example.input_ids[: example.num_prompt_tokens])
            fitting.append(Question(prompt, row.context, row.final_answer, example.num_loss_tokens))
    if not fitting:
        raise InputError(
            f"best_by {job.config.supervised.best_by!r} needs validation questions with their "
            f"oracle in at most {limit} tokens, and the dataset has none",
            hint="Use best_by 'loss', raise batch.max_seq_len, or make a larger dataset.",
        )
    path = job.run_folder / f"{QUESTIONS}.jsonl"
    write_questions(path, fitting)
    return path


def write_questions(path: Path, questions: Iterable[Question]) -> None:
    """Write questions as JSON lines, which every rank reads."""
    with path.open("w", encoding="utf-8") as stream:
        for question in questions:
            record = {
                "prompt_ids": question.prompt_ids,
                "passages": [passage.model_dump() for passage in question.passages],
                "final_answer": question.final_answer,
                "num_target_tokens": question.num_target_tokens,
            }
            stream.write(json.dumps(record) + "\n")


def read_questions(path: Path) -> list[Question]:
    """What `write_questions` wrote."""
    records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [
        Question(
            prompt_ids=tuple(record["prompt_ids"]),
            passages=tuple(map(Passage.model_validate, record["passages"])),
            final_answer=record["final_answer"],
            num_target_tokens=record["num_target_tokens"],
        )
        for record in records
    ]


def measure_answer(text: str, passages: Sequence[Passage], reference: str) -> tuple[float, float]:
    """Share of the quotes that are verbatim where they cite (0 without any), and the answer's F1.

    As evaluation counts them: `verbatim_quote_rate` and `token_f1`.
    """
    answer = parse_answer(text, passages)
    checks = [verify_quote(quote.text, quote.passage_number, passages) for quote in answer.quotes]
    verbatim = sum(check.status == "verbatim" for check in checks)
    rate = verbatim / len(checks) if checks else 0.0
    return rate, token_f1(answer.final_answer or "", reference)


@dataclass(frozen=True)
class AnswerCheck:
    """Answers the questions, and measures the answers."""

    questions: Sequence[Question]
    tokenizer: Any

    @classmethod
    def load(cls, path: Path, tokenizer_path: Path) -> Self:
        """Read questions and tokenizer from files."""
        from transformers import AutoTokenizer

        return cls(read_questions(path), AutoTokenizer.from_pretrained(tokenizer_path))

    def measure(self, model: Any, device: Any) -> dict[str, float]:
        """`quote_rate` and `answer_f1`, means over all questions; collective.

        Each rank answers the same number of times, as ZeRO-3 requires; a rank that has run out
        repeats a question, and its answer does not count.
        """
        import torch
        from torch import distributed

        is_distributed = distributed.is_initialized()
        rank = distributed.get_rank() if is_distributed else 0
        world = distributed.get_world_size() if is_distributed else 1
        was_training = model.training
        model.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=device)
        for first in range(0, len(self.questions), world):
            index = first + rank
            question = self.questions[index % len(self.questions)]
            text = self._answer(model, question, device, is_synced=world > 1)
            if index < len(self.questions):
                measured = measure_answer(text, question.passages, question.final_answer)
                sums += torch.tensor(measured, dtype=torch.float64, device=device)
        model.train(was_training)
        if is_distributed:
            distributed.all_reduce(sums)
        quote_rate, answer_f1 = (sums / len(self.questions)).tolist()
        return {"quote_rate": quote_rate, "answer_f1": answer_f1}

    @cached_property
    def _max_new_tokens(self) -> int:
        return int(_ROOM * max(question.num_target_tokens for question in self.questions))

    def _settings(self, model: Any) -> Any:
        """Greedy, whatever the model's own generation configuration asks for."""
        from transformers import GenerationConfig

        own = model.generation_config.eos_token_id
        ends = {self.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}
        return GenerationConfig(
            max_new_tokens=self._max_new_tokens,
            do_sample=False,
            use_cache=True,
            eos_token_id=sorted(ends),
            pad_token_id=min(ends),
        )

    def _answer(self, model: Any, question: Question, device: Any, *, is_synced: bool) -> str:
        import torch

        prompt = torch.tensor([question.prompt_ids], device=device)
        with torch.no_grad():
            made = model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                generation_config=self._settings(model),
                synced_gpus=is_synced,
            )
        text: str = self.tokenizer.decode(
            made[0, prompt.shape[1] :],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        return text
