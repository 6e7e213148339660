"""Plain text as blocks of tokens.

Documents are joined to one stream, an end-of-document token before, between and behind them, and
the stream is cut into blocks. The first token of a block has nothing that it could be predicted
from, so it is the last one of the block before: every token of every document is learned once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

_END_TOKENS = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",  # DeepSeek
    "<eos>",
    "</s>",
)
"""What base models saw between documents, as their families write it. In a chat model `eos_token`
may end a turn instead (SmolLM2: `<|im_end|>`)."""
_BATCH_TEXTS = 64


def end_of_document_id(tokenizer: Any) -> int:
    """The id of the token between two documents: what pre-training had there, else `eos_token`."""
    special = {token.content: i for i, token in tokenizer.added_tokens_decoder.items()}
    known = (special[token] for token in _END_TOKENS if token in special)
    return int(next(known, tokenizer.eos_token_id))


def tokenize_texts(texts: Iterable[str], tokenizer: Any) -> Iterator[list[int]]:
    """Token ids of each text, without special tokens: not even where the text spells one."""
    remaining = iter(texts)
    while batch := list(islice(remaining, _BATCH_TEXTS)):
        encoded = tokenizer(batch, add_special_tokens=False, split_special_tokens=True)
        yield from encoded["input_ids"]


def cut_blocks(
    documents: Iterable[Sequence[int]], end_id: int, block_tokens: int
) -> Iterator[list[int]]:
    """Blocks of `block_tokens` tokens (at least 2); the last one may be shorter.

    Example:
        Documents `[1, 2]` and `[3]` with end 0 make the stream `0 1 2 0 3 0`, and with 3 tokens a
        block `[0, 1, 2]`, `[2, 0, 3]`, `[3, 0]`.
    """
    stream = [end_id]
    for document in documents:
        stream.extend(document)
        stream.append(end_id)
        start = 0
        while len(stream) - start >= block_tokens:
            yield stream[start : start + block_tokens]
            start += block_tokens - 1
        del stream[:start]
    if len(stream) > 1:
        yield stream


def take_tokens(blocks: Iterable[list[int]], num_learned_tokens: int) -> Iterator[list[int]]:
    """The first blocks, until they hold so many learned tokens; the last one is cut to fit."""
    remaining = num_learned_tokens
    for block in blocks:
        if remaining <= 0:
            return
        yield block[: remaining + 1]
        remaining -= len(block) - 1
