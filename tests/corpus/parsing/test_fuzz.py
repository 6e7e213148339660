"""Damaged files of every format: no crash of the run, no hang, every input accounted for."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline_lib.config import IngestConfig
from pipeline_lib.corpus.drops import DropReason
from pipeline_lib.corpus.parsing.base import ParsedDocument
from pipeline_lib.corpus.parsing.registry import parse
from pipeline_lib.corpus.sandbox import Done, Outcome, SandboxPool
from pipeline_lib.corpus.sources.base import Locator, SourceInput

MUTATIONS_PER_FILE = 25


def make_handler(argument: bytes) -> Callable[[bytes], bytes]:
    """What the children of the sandbox run: detect, parse, and report what came of it."""
    config = IngestConfig.model_validate_json(argument)

    def handle(payload: bytes) -> bytes:
        uri, _, data = payload.partition(b"\n")
        item = SourceInput(
            uri=uri.decode(), locator=Locator(), content_sha256="", size_bytes=len(data)
        )
        kinds = []
        for result in parse(item, data, config):
            if isinstance(result, ParsedDocument):
                json.dumps([*map(str, result.segments), result.title, dict(result.metadata)])
                kinds.append("document")
            else:
                kinds.append(result.reason)
        return json.dumps(kinds).encode()

    return handle


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to four changes: bytes flipped, a piece cut out, doubled, moved, or the end missing."""
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not damaged:
            break
        start = rng.randrange(len(damaged))
        end = min(len(damaged), start + rng.randint(1, 64))
        match rng.randrange(5):
            case 0:
                for position in range(start, end, 7):
                    damaged[position] ^= 1 << rng.randrange(8)
            case 1:
                del damaged[start:end]
            case 2:
                damaged[start:start] = damaged[start:end]
            case 3:
                target = rng.randrange(len(damaged))
                damaged[target : target + end - start] = damaged[start:end]
            case _:
                del damaged[start:]
    return bytes(damaged)


def mutate_member(package: bytes, rng: random.Random) -> bytes:
    """A package that is a sound zip, with one of its members damaged."""
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(sorted(members))
    members[name] = mutate(members[name], rng)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return stream.getvalue()


def damaged_files(samples: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    for uri, data in samples.items():
        yield f"{uri} intact", f"{uri}\n".encode() + data
        for seed in range(MUTATIONS_PER_FILE):
            rng = random.Random(f"{uri}:{seed}")
            is_inside = data.startswith(b"PK") and seed % 2 == 0
            damaged = mutate_member(data, rng) if is_inside else mutate(data, rng)
            yield f"{uri} seed {seed}", f"{uri}\n".encode() + damaged


def test_damaged_files_become_documents_or_explained_drops(
    samples: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))  # for the children
    inputs = list(damaged_files(samples))
    with SandboxPool(
        f"{Path(__file__).stem}:make_handler",
        IngestConfig().model_dump_json().encode(),
        num_workers=2,
        max_seconds=10,
        max_memory_bytes=1_000_000_000,
    ) as pool:
        outcomes: dict[str, Outcome] = dict(pool.map(inputs))
    assert list(outcomes) == [key for key, _ in inputs]
    failed = {key: outcome for key, outcome in outcomes.items() if not isinstance(outcome, Done)}
    assert not failed
    known = {"document", *DropReason}
    for key, outcome in outcomes.items():
        assert isinstance(outcome, Done)
        kinds = json.loads(outcome.data)
        assert kinds, key
        assert known.issuperset(kinds), (key, kinds)
        if key.endswith("intact"):
            assert set(kinds) == {"document"}, (key, kinds)
