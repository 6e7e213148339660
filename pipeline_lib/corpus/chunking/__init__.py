"""Documents to chunks, measured in the embedding model's tokens, with exact offsets.

`measure` counts the tokens between any two places from those of the words; `blocks` and
`boundaries` say where text may be cut and how well; `sections` says which stretches are cut on
their own; `packing` makes the cuts; `chunker` counts each chunk again, exactly, adds the overlap,
and names the chunks. A chunk's id comes from its text, not from its position, so a chunk that an
edit elsewhere left alone keeps its id, and its vector.
"""

from pipeline_lib.corpus.chunking.chunker import CHUNK_NAMESPACE, Chunker, chunk_id
from pipeline_lib.corpus.chunking.packing import MAX_CHARS_PER_TOKEN
from pipeline_lib.corpus.chunking.tokenizer import (
    TOKENIZER_FILE,
    check_fits_model,
    load_tokenizer,
    tokenizer_identity,
)

__all__ = [
    "CHUNK_NAMESPACE",
    "MAX_CHARS_PER_TOKEN",
    "TOKENIZER_FILE",
    "Chunker",
    "check_fits_model",
    "chunk_id",
    "load_tokenizer",
    "tokenizer_identity",
]
