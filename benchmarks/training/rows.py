"""Rows to train on: a dataset's own, or made ones of RAFT's shape.

    python -m benchmarks.training.rows [--rows 8] [--questions-per-context 4]

Made rows are real rows (validated, rendered and tokenized by the project's own code) about text
that every Python carries, its language reference: some passages, one of which a quote in the answer
is taken from. The same arguments give the same rows. Run as a command, this module shows what they
are like.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from pipeline_lib.artifacts.store import ArtifactStore
from pipeline_lib.raft.rows import Passage, Provenance, Quote, RaftRow, ReasoningStep, read_rows
from pipeline_lib.settings import Settings
from pipeline_lib.training.examples import Example, encode_row
from pipeline_lib.training.prefixes import prefix_tree

_SPREAD = 0.15
"""Contexts, and passages within them, are longer or shorter than the mean by up to this share."""
_PROBE_ROWS = 16
_PROBE_WORDS = (40, 120)


@dataclass(frozen=True, kw_only=True)
class RowShape:
    """What made rows are like."""

    num_rows: int = 8
    num_documents: int = 5
    """Passages of a context."""
    document_words: int = 110
    answer_words: int = 34
    """Of the quote and the final answer together."""
    questions_per_context: int = 1
    seed: int = 0


def make_rows(shape: RowShape) -> list[RaftRow]:
    """Rows of a shape; those of one context follow each other."""
    rows = []
    for number in range(shape.num_rows):
        group, place = divmod(number, shape.questions_per_context)
        rows.append(_make_row(shape, f"context-{group}", place))
    return rows


def _make_row(shape: RowShape, group: str, place: int) -> RaftRow:
    context = _make_passages(shape, group)
    rng = random.Random(f"{shape.seed} {group} {place}")
    oracle = context[(rng.randrange(len(context)) + place) % len(context)]
    quote, answer = _cut_quote(oracle, shape.answer_words, rng)
    topic = " ".join(quote.text.split()[:4])
    return RaftRow(
        row_id=f"{group}-{place}",
        row_key=f"{group}-{place}",
        split="train",
        task="answer",
        kind="factual",
        style="plain",
        question=f"What follows from {topic!r} in the reference?",
        context=tuple(
            passage.model_copy(update={"role": "oracle", "origin": "oracle"})
            if passage is oracle
            else passage
            for passage in context
        ),
        oracle_chunk_ids=(oracle.chunk_id,),
        oracle_document_ids=(oracle.document_id,),
        source_document_id=oracle.document_id,
        oracle_present=True,
        target="answer",
        reasoning=(ReasoningStep(text=f"{oracle.title} says:", quote=quote),),
        final_answer=answer,
        context_group=group if shape.questions_per_context > 1 else "",
        provenance=Provenance(
            question_source="user",
            answer_source="user",
            teacher_model="none",
            prompt_version="1",
            seed=shape.seed,
        ),
    )


def _make_passages(shape: RowShape, group: str) -> list[Passage]:
    rng = random.Random(f"{shape.seed} {group}")
    words = _reference_words()
    mean = shape.document_words * rng.uniform(1 - _SPREAD, 1 + _SPREAD)
    passages = []
    for number in range(shape.num_documents):
        length = max(8, round(mean * rng.uniform(1 - _SPREAD, 1 + _SPREAD)))
        start = rng.randrange(len(words) - length)
        passages.append(
            Passage(
                chunk_id=f"{group}-chunk-{number}",
                document_id=f"{group}-document-{number}",
                title=f"Section {number + 1}",
                text=" ".join(words[start : start + length]),
                role="distractor",
                origin="retrieved",
                rank=number + 1,
            )
        )
    return passages


def _cut_quote(passage: Passage, answer_words: int, rng: random.Random) -> tuple[Quote, str]:
    """A verbatim span of two thirds of the words, and the words after it as the answer."""
    words = passage.text.split(" ")
    num_quoted = min(max(1, answer_words * 2 // 3), len(words) // 2)
    first = rng.randrange(len(words) - num_quoted)
    text = " ".join(words[first : first + num_quoted])
    start = len(" ".join(words[:first])) + (first > 0)
    quote = Quote(chunk_id=passage.chunk_id, start=start, end=start + len(text), text=text)
    after = words[first + num_quoted :][: max(1, answer_words - num_quoted)]
    return quote, " ".join(after)


@cache
def _reference_words() -> list[str]:
    from pydoc_data.topics import topics

    return " ".join(topics[name] for name in sorted(topics)).split()


def fit_shape(shape: RowShape, tokenizer: Any, num_prompt_tokens: int) -> RowShape:
    """The shape whose prompts have about so many tokens: their length is linear in its words.

    Raises:
        ValueError: so many documents take more even when they are empty.
    """
    few, many = (_mean_prompt(shape, tokenizer, words) for words in _PROBE_WORDS)
    per_word = (many - few) / (_PROBE_WORDS[1] - _PROBE_WORDS[0])
    words = round(_PROBE_WORDS[0] + (num_prompt_tokens - few) / per_word)
    if words < 8:
        raise ValueError(
            f"prompts of {num_prompt_tokens} tokens have no room for {shape.num_documents} "
            "documents: ask for longer prompts or fewer documents"
        )
    return replace(shape, document_words=words)


def _mean_prompt(shape: RowShape, tokenizer: Any, document_words: int) -> float:
    rows = make_rows(
        replace(shape, num_rows=_PROBE_ROWS, document_words=document_words, questions_per_context=1)
    )
    return fmean(encode_row(row, tokenizer).num_prompt_tokens for row in rows)


def read_dataset_rows(settings: Settings, dataset: str) -> list[RaftRow]:
    """Training rows of a dataset, those of one context one after another.

    Args:
        settings: where artifacts are.
        dataset: a parquet file of rows, a dataset artifact's folder, or a reference to one
            (`dataset/<name>@latest`).
    """
    path = Path(dataset).expanduser()
    if not path.exists():
        store = ArtifactStore(settings)
        path = store.directory(store.resolve(dataset))
    rows = read_rows(path / "train.parquet" if path.is_dir() else path)
    seen: dict[str, int] = {}
    for row in rows:
        seen.setdefault(row.context_group or row.row_id, len(seen))
    return sorted(rows, key=lambda row: seen[row.context_group or row.row_id])


def encode_fitting(rows: Iterable[RaftRow], tokenizer: Any, max_seq_len: int) -> Iterator[Example]:
    """The rows that fit, tokenized."""
    for row in rows:
        example = encode_row(row, tokenizer)
        if len(example.input_ids) <= max_seq_len:
            yield example


def encode_up_to(
    rows: Iterable[RaftRow], tokenizer: Any, num_rows: int, max_seq_len: int
) -> list[Example]:
    """The first rows that fit, tokenized.

    Raises:
        ValueError: there are fewer.
    """
    examples = list(islice(encode_fitting(rows, tokenizer, max_seq_len), num_rows))
    if len(examples) == num_rows:
        return examples
    raise ValueError(
        f"only {len(examples)} rows fit into {max_seq_len} tokens, not {num_rows}: ask for fewer "
        "(--rows) or raise --max-seq-len"
    )


@dataclass(frozen=True, kw_only=True)
class TokenCounts:
    """How many tokens a step has."""

    rows: int
    input: int
    """Prompt and answer of every row."""
    answer: int
    shared: int
    """Of `input`, when what rows begin with alike is counted once."""


def count_tokens(examples: Sequence[Example]) -> TokenCounts:
    """Tokens of rows that could all be in one micro batch."""
    return TokenCounts(
        rows=len(examples),
        input=sum(len(example.input_ids) for example in examples),
        answer=sum(example.num_loss_tokens for example in examples),
        shared=sum(branch.length for branch in prefix_tree(examples)),
    )


def main() -> None:
    """Show what made rows are like."""
    from transformers import AutoTokenizer

    from pipeline_lib.config.base import BUNDLED_LANGUAGE_MODEL
    from pipeline_lib.models import resolve_model
    from pipeline_lib.settings import load_settings

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--documents", type=int, default=5)
    parser.add_argument("--prompt-tokens", type=int, default=850)
    parser.add_argument("--questions-per-context", type=int, default=1)
    arguments = parser.parse_args()
    path = resolve_model(load_settings(), BUNDLED_LANGUAGE_MODEL).path
    tokenizer = AutoTokenizer.from_pretrained(path)
    shape = RowShape(
        num_rows=arguments.rows,
        num_documents=arguments.documents,
        questions_per_context=arguments.questions_per_context,
    )
    rows = make_rows(fit_shape(shape, tokenizer, arguments.prompt_tokens))
    examples = [encode_row(row, tokenizer) for row in rows]
    for example in examples:
        print(f"{example.num_prompt_tokens:6} + {example.num_loss_tokens:4} tokens")
    print(count_tokens(examples))
    print(tokenizer.decode(examples[0].input_ids))


if __name__ == "__main__":
    main()
