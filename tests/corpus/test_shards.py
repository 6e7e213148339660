"""Shards: a deterministic cut, found again by content, made once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.corpus.sandbox import Crashed, Done, Outcome, OutOfMemory, TimedOut
from pipeline_lib.corpus.shards import (
    Shard,
    cut_shards,
    prepared_shards,
    process_shard,
    read_shard,
)
from pipeline_lib.corpus.sources.base import SourceInput
from pipeline_lib.errors import ArtifactCorruptError, InputError
from pipeline_lib.stage import Workspace

MakeInput = Callable[..., SourceInput]


class FakePool:
    """Answers each input with the outcome that is set for its URI."""

    def __init__(self, outcomes: dict[str, Outcome]) -> None:
        self.outcomes = outcomes

    def map(self, payloads: object) -> object:
        for item, payload in payloads:  # type: ignore[attr-defined]
            assert json.loads(payload)["uri"] == item.uri
            yield item, self.outcomes[item.uri]


def ready(item: SourceInput) -> None:
    """What it is part of lies on this machine already."""


def sizes(inputs: list[SourceInput], max_inputs: int, max_bytes: int) -> list[list[int]]:
    cut = cut_shards(inputs, "p", max_inputs=max_inputs, max_bytes=max_bytes)
    return [[item.size_bytes for item in shard.inputs] for shard in cut]


def test_shards_are_bounded_by_inputs_and_by_bytes(source_input: MakeInput) -> None:
    inputs = [source_input(f"file:{n}", b"x" * size) for n, size in enumerate([3, 3, 3, 9, 1, 1])]
    assert sizes(inputs, 2, 100) == [[3, 3], [3, 9], [1, 1]]
    assert sizes(inputs, 100, 6) == [[3, 3], [3], [9], [1, 1]]
    assert sizes([], 2, 100) == []


def test_a_shard_is_called_by_its_contents_and_what_processing_means(
    source_input: MakeInput,
) -> None:
    def key(inputs: list[SourceInput], processing: str = "p") -> str:
        [shard] = cut_shards(inputs, processing, max_inputs=9, max_bytes=99)
        return shard.key

    one, two = source_input("file:1", b"1"), source_input("file:2", b"2")
    elsewhere = replace(one, locator=one.locator.model_copy(update={"path": "/moved"}))
    assert key([one, two]) == key([elsewhere, two])
    others = [
        key([two, one]),
        key([one]),
        key([one, replace(two, content_sha256="0" * 64)]),
        key([one, replace(two, media_type="text/html")]),
        key([one, two], "q"),
    ]
    assert len({key([one, two]), *others}) == 6


@pytest.fixture
def partial(workspace: Workspace) -> object:
    return workspace.artifacts.partial(ArtifactRef(kind="corpus", name="x", fingerprint="0" * 32))


def make_shard(source_input: MakeInput, outcomes: dict[str, Outcome]) -> Shard:
    inputs = [source_input(uri) for uri in outcomes]
    [shard] = cut_shards(inputs, "p", max_inputs=99, max_bytes=99)
    return shard


def test_a_parser_that_hangs_crashes_or_grows_takes_down_its_input_only(
    partial: object, source_input: MakeInput, tmp_path: Path
) -> None:
    outcomes: dict[str, Outcome] = {
        "file:hangs": TimedOut(60.0),
        "file:grows": OutOfMemory(),
        "file:crashes": Crashed("the process was ended by SIGSEGV"),
    }
    shard = make_shard(source_input, outcomes)
    num_done = 0

    def count() -> None:
        nonlocal num_done
        num_done += 1

    prepared: list[SourceInput] = []
    process_shard(
        partial,  # type: ignore[arg-type]
        shard,
        FakePool(outcomes),  # type: ignore[arg-type]
        scratch=tmp_path,
        prepare=prepared.append,
        on_input=count,
    )
    assert tuple(prepared) == shard.inputs
    found = list(read_shard(partial, shard, tmp_path))  # type: ignore[arg-type]
    assert num_done == 3
    assert [drop.reason for each in found for drop in each.drops] == [
        "timed_out",
        "out_of_memory",
        "parser_crashed",
    ]
    [drop] = found[0].drops
    assert (drop.source_uri, drop.input_uri) == ("file:hangs", "file:hangs")
    assert drop.detail == "it took longer than 60 seconds"
    assert "ingest.limits.max_seconds" in drop.remedy
    assert found[2].drops[0].detail == "the process was ended by SIGSEGV"
    assert list(tmp_path.iterdir()) == []


def test_what_no_drop_can_stand_for_ends_the_run_and_leaves_no_shard(
    partial: object, source_input: MakeInput, tmp_path: Path
) -> None:
    told = b"E" + json.dumps({"kind": "InputError", "message": "changed", "hint": "h"}).encode()
    outcomes: dict[str, Outcome] = {"file:a": Done(told)}
    shard = make_shard(source_input, outcomes)
    with pytest.raises(InputError, match="changed") as caught:
        process_shard(partial, shard, FakePool(outcomes), scratch=tmp_path, prepare=ready)  # type: ignore[arg-type]
    assert caught.value.hint == "h"
    assert prepared_shards(partial) == set()  # type: ignore[arg-type]


def test_a_shard_that_is_missing_or_not_whole_is_refused(
    partial: object, source_input: MakeInput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes: dict[str, Outcome] = {"file:a": TimedOut(1.0), "file:b": TimedOut(1.0)}
    shard = make_shard(source_input, outcomes)
    with pytest.raises(ArtifactCorruptError, match="holds 0 of 2 inputs"):
        list(read_shard(partial, shard, tmp_path))  # type: ignore[arg-type]
    less = Shard(shard.key, shard.inputs[:1])
    process_shard(partial, less, FakePool(outcomes), scratch=tmp_path, prepare=ready)  # type: ignore[arg-type]
    assert prepared_shards(partial) == {shard.key}  # type: ignore[arg-type]
    with pytest.raises(ArtifactCorruptError, match="holds 1 of 2 inputs"):
        list(read_shard(partial, shard, tmp_path))  # type: ignore[arg-type]
