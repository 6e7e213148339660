"""What names a row, and what a row rests on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from json.encoder import encode_basestring as quoted

from pipeline_lib.artifacts.manifest import canonical_json
from pipeline_lib.raft.candidates import Topic
from pipeline_lib.raft.rows import Passage, Target, Task

_LENGTH = 32


def make_row_id(question: str, chunk_ids: Sequence[str]) -> str:
    """The row's name: the same question about the same passages has it in every dataset.

    Args:
        question: word for word.
        chunk_ids: its oracles, or the passage that an unanswerable question was written about.
    """
    return _hash([question, *chunk_ids])


def derived_row_id(base_row_id: str, purpose: str) -> str:
    """The name of what is made from an `answer` row: a row of another task, a preference pair."""
    return _hash([base_row_id, purpose])


def derived_row_key(base_row_key: str, task: Task, passages: Sequence[Passage]) -> str:
    """Hash of all that a row of another task rests on: its base, and the passages it shows."""
    return _hash([base_row_key, task, _shown(passages)])


def made_up_id(source_chunk_id: str, text: str) -> str:
    """The name of a passage that was made from a chunk; no chunk's id looks like it."""
    return "made-up-" + _hash([source_chunk_id, text])


def make_row_key(
    row_id: str,
    passages: Sequence[Passage],
    *,
    oracle_texts: Sequence[str],
    prompt_version: str,
    teacher_model: str,
    seed: int,
    target: Target = "answer",
    known_answer: str | None = None,
) -> str:
    """Hash of all that a row rests on; a row with the same key need not be made again.

    Args:
        row_id: says question and oracles.
        passages: its context, in order; what a model sees of them counts, ranks do not.
        oracle_texts: texts of its oracles, which the context need not hold.
        prompt_version: of the templates.
        teacher_model: identity of the teacher.
        seed: of the dataset.
        target: what the row teaches.
        known_answer: the answer that the teacher was told.
    """
    oracles = [_sha256(text) for text in oracle_texts]
    return _hash(
        [
            row_id,
            _shown(passages),
            oracles,
            prompt_version,
            teacher_model,
            seed,
            target,
            known_answer,
        ]
    )


def topic_key(topic: Topic) -> str:
    """Names what was asked about: passages by id and text, the sentence, kind and style."""
    texts = [[chunk.chunk_id, _sha256(chunk.text)] for chunk in topic.chunks]
    return _hash([texts, topic.kind, topic.style, topic.span])


def unit_interval(*parts: object) -> float:
    """A number in [0, 1) that depends on nothing but `parts`: a draw that others do not disturb."""
    # As canonical JSON, in a third of the time: ten draws and more make a row.
    text = ",".join(quoted(part) if type(part) is str else _json_of(part) for part in parts)
    digest = hashlib.sha256(f"[{text}]".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _json_of(part: object) -> str:
    return str(part) if type(part) is int else canonical_json(part).decode()


def _shown(passages: Sequence[Passage]) -> list[list[str]]:
    return [[p.chunk_id, p.role, p.title, _sha256(p.text)] for p in passages]


def _hash(parts: Sequence[object]) -> str:
    return hashlib.sha256(canonical_json(list(parts))).hexdigest()[:_LENGTH]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
