"""Completions in S3: whole or not there, shared by everybody, and never paid for twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline_lib.artifacts.object_store import ObjectStore
from pipeline_lib.errors import StoreError, StoreUnavailableError
from pipeline_lib.generation import completion_store
from pipeline_lib.generation.base import Completion, GenerationParams, Prompt, Score
from pipeline_lib.generation.completion_segments import completion_key, encode_segment
from pipeline_lib.generation.completion_store import CompletionStore, space_of

Open = Callable[..., CompletionStore]


def key(number: int) -> str:
    return f"{number:064x}"


def word(number: int) -> Completion:
    return Completion(f"word {number}", number, 2, "stop")


def words(*numbers: int) -> dict[str, Completion]:
    return {key(number): word(number) for number in numbers}


def fill(store: CompletionStore, *numbers: int) -> None:
    """As a run does that ends well."""
    with store:
        store.add(words(*numbers))


def read(store: CompletionStore, *numbers: int) -> list[str]:
    """What the store has of these, as another run finds it."""
    with store:
        found = store.get_many([key(number) for number in numbers])
    return [result.text for result in found.values() if isinstance(result, Completion)]


def test_what_was_added_is_found_by_another_machine(open_store: Open) -> None:
    with open_store() as store:
        store.add(words(1, 2))
        store.add({key(3): Score(1.5, 2)})
    with open_store(machine="two") as other:
        assert other.get_many([key(3), key(2), key(9), key(1)]) == {
            key(3): Score(1.5, 2),
            key(2): word(2),
            key(1): word(1),
        }


def test_it_is_found_at_once_also_while_it_is_on_its_way(open_store: Open) -> None:
    with open_store() as store:
        for number in range(50):
            store.add(words(number))
            assert store.get_many([key(number)]) == words(number)
        assert len(store.get_many([key(number) for number in range(50)])) == 50


def test_models_do_not_share_words(open_store: Open, bucket: Any) -> None:
    fill(open_store("model a"), 1)
    assert read(open_store("model b"), 1) == []
    told = json.loads(bucket.objects[f"_completions/{space_of('model a')}/space.json"])
    assert told == {"model": "model a"}


def test_closing_leaves_one_segment_of_a_small_run(open_store: Open, bucket: Any) -> None:
    with open_store() as store:
        for number in range(5):
            store.add(words(number))
            store.flush()
        assert len(bucket.segments) == 5
    assert len(bucket.segments) == 1
    assert len(read(open_store(machine="two"), *range(5))) == 5


def test_a_long_run_merges_as_it_goes(
    open_store: Open, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion_store, "SEGMENT_BYTES", 1_000)
    with open_store() as store:
        for number in range(100):
            store.add(words(number))
            store.flush()
        assert len(bucket.segments) < 100 / 3
    assert len(read(open_store(machine="two"), *range(100))) == 100


def test_what_many_short_runs_left_is_merged(open_store: Open, bucket: Any) -> None:
    for number in range(completion_store.SMALL_SEGMENTS):
        fill(open_store(), number)
    assert len(bucket.segments) == completion_store.SMALL_SEGMENTS
    fill(open_store(), 99)
    assert len(bucket.segments) == 1
    assert len(read(open_store(), 99, *range(completion_store.SMALL_SEGMENTS))) == 17


def test_a_crash_during_a_merge_loses_nothing(open_store: Open, bucket: Any) -> None:
    with open_store() as store:
        store.add(words(1))
        store.flush()
        store.add(words(2))
        store.flush()
        before = dict(bucket.objects)
    bucket.objects.update(before)  # the merged segment was written, the others are still there
    assert sorted(read(open_store(machine="two"), 1, 2)) == ["word 1", "word 2"]


def test_a_segment_that_is_merged_while_another_machine_reads_is_found_elsewhere(
    open_store: Open, bucket: Any
) -> None:
    one, both = (
        encode_segment(dict.fromkeys(keys, b'{"num_tokens":1,"sum_nll":1.0}'))
        for keys in ([key(1)], [key(1), key(2)])
    )
    root = f"_completions/{space_of('scripted:1')}/"
    bucket.objects[root + one[0]] = one[1]

    def merge(asked: str) -> None:
        if asked == root + one[0]:
            bucket.objects.pop(asked, None)
            bucket.objects[root + both[0]] = both[1]

    bucket.on_get = merge
    with open_store(machine="two") as store:
        assert len(store.get_many([key(1), key(2)])) == 2


def test_two_runs_at_once_do_each_other_no_harm(open_store: Open, bucket: Any) -> None:
    with open_store(machine="one") as first, open_store(machine="two") as second:
        for number in range(0, 20, 2):
            first.add(words(number, 100))
            second.add(words(number + 1, 100))
            first.flush()
    assert len(read(open_store(machine="three"), 100, *range(20))) == 21


def test_two_runs_may_share_a_cache_folder(open_store: Open) -> None:
    with open_store() as first, open_store() as second:
        first.add(words(1, 3))
        second.add(words(2, 3))
        first.flush()
        second.flush()
        assert len(first.get_many([key(1), key(2), key(3)])) == 3
    assert len(read(open_store(), 1, 2, 3)) == 3


def test_where_two_runs_disagree_all_machines_end_with_the_same_words(open_store: Open) -> None:
    fill(open_store(machine="one"), 1)
    with open_store(machine="two") as other:
        other.add({key(1): Completion("another word", 1, 2, "stop")})
        other.flush()
        assert other.get_many([key(1)])
    seen = {tuple(read(open_store(machine=name), 1)) for name in ("one", "two", "three")}
    assert seen == {("another word",)}


@pytest.mark.parametrize("damage", ["deleted", "no database", "cut", "scribbled", "emptied"])
def test_the_cache_may_be_lost_or_damaged_between_runs(
    open_store: Open, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    fill(open_store(), *range(300))
    [file] = (tmp_path / "one").glob("*.sqlite")
    content = file.read_bytes()
    if damage == "deleted":
        file.unlink()
    elif damage == "no database":
        file.write_bytes(b"what is this?" * 1000)
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "scribbled":
        file.write_bytes(content.replace(b"word 17", b"werd 17"))
    else:
        file.write_bytes(b"")
    found = read(open_store(), *range(300))
    assert sorted(found) == sorted(f"word {number}" for number in range(300))
    assert ("cannot be used" in caplog.text) == (damage not in ("deleted", "emptied"))


def test_the_cache_may_be_deleted_while_it_is_used(open_store: Open, tmp_path: Path) -> None:
    with open_store() as store:
        store.add(words(1))
        store.flush()
        for file in (tmp_path / "one").iterdir():
            file.unlink()
        store.add(words(2))
        store.flush()
        assert store.get_many([key(1), key(2)]) == words(1, 2)
    assert len(read(open_store(), 1, 2)) == 2


def test_without_a_usable_folder_a_run_goes_on(
    open_store: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "one").write_text("a file where the folder should be")
    fill(open_store(), 1)
    assert read(open_store(), 1) == ["word 1"]
    assert "cannot be used" in caplog.text


def test_what_the_store_no_longer_has_is_not_found_in_the_cache(
    open_store: Open, bucket: Any
) -> None:
    """S3 is the truth: to have everything written anew, delete it there."""
    fill(open_store(), 1)
    bucket.objects.clear()
    assert read(open_store(), 1) == []


def test_a_damaged_segment_is_ignored_with_a_warning(
    open_store: Open, bucket: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fill(open_store(), 1)
    [segment] = bucket.segments
    bucket.objects[segment] = bucket.objects[segment][:-1]
    assert read(open_store(machine="two"), 1) == []
    assert caplog.text.count("Ignoring s3://memory/") == 1


def test_foreign_objects_are_left_alone(open_store: Open, bucket: Any) -> None:
    foreign = f"_completions/{space_of('scripted:1')}/notes.txt"
    bucket.objects[foreign] = b"mine"
    fill(open_store(), 1)
    assert read(open_store(machine="two"), 1) == ["word 1"]
    assert bucket.objects[foreign] == b"mine"


def test_a_store_that_is_down_is_an_error_and_nothing_is_lost_when_it_returns(
    open_store: Open, bucket: Any
) -> None:
    with open_store() as store:
        bucket.is_down = True
        store.add(words(1))
        with pytest.raises(StoreUnavailableError):
            store.flush()
        assert store.get_many([key(1)]) == words(1)
        bucket.is_down = False
    assert read(open_store(machine="two"), 1) == ["word 1"]


def test_the_first_error_is_the_one_that_is_seen(open_store: Open, bucket: Any) -> None:
    bucket.is_down = True
    with pytest.raises(KeyboardInterrupt), open_store() as store:
        _be_interrupted(store)


def _be_interrupted(store: CompletionStore) -> None:
    store.add(words(1))
    raise KeyboardInterrupt


def test_segments_that_cannot_be_deleted_are_no_error(
    open_store: Open, bucket: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def refuse(_keys: Any) -> None:
        raise StoreError("may not delete")

    monkeypatch.setattr(bucket, "delete", refuse)
    with open_store() as store:
        store.add(words(1))
        store.flush()
        store.add(words(2))
    assert "may not delete" in caplog.text
    assert len(read(open_store(machine="two"), 1, 2)) == 2


def test_many_lookups_take_no_request(open_store: Open, bucket: Any) -> None:
    fill(open_store(), *range(2_000))
    store = open_store()

    def refuse(asked: str) -> None:
        raise AssertionError(asked)

    bucket.on_get = refuse
    assert len(read(store, *range(2_000))) == 2_000


_RUN = """
import json, sys, time
from pathlib import Path
from pipeline_lib.artifacts.object_store import ObjectStore
from pipeline_lib.config import BudgetConfig, PriceConfig
from pipeline_lib.generation.base import Completion, GenerationParams, Prompt
from pipeline_lib.generation.completion_store import CompletionStore
from pipeline_lib.generation.metered import MeteredTeacher
from pipeline_lib.settings import load_settings

class Teacher:
    model_identity = "scripted:1"

    def generate(self, prompts, params, *, on_completed=None):
        done = []
        for number, prompt in enumerate(prompts):
            print(prompt.text, flush=True)
            time.sleep(0.004)
            completion = Completion("echo " + prompt.text, 10, 2, "stop")
            done.append(completion)
            on_completed([number], [completion])
        return done

settings = load_settings()
with CompletionStore(ObjectStore(settings), Path(sys.argv[1]), "scripted:1") as store:
    teacher = MeteredTeacher(Teacher, "scripted:1", store, PriceConfig(), BudgetConfig())
    prompts = [Prompt.plain(f"p{n}") for n in range(NUM)]
    results = teacher.generate(prompts, GenerationParams(max_new_tokens=5), step="asking")
print(json.dumps([each.text for each in results]))
"""


def test_a_run_that_is_killed_again_and_again_asks_only_for_what_is_missing(
    workspace: Any, settings: Any, tmp_path: Path
) -> None:
    """SIGKILL: no handler runs, nothing is flushed. Every second life begins without a cache."""
    num, lost = 400, 0
    keys = {
        completion_key("scripted:1", Prompt.plain(f"p{n}"), GenerationParams(max_new_tokens=5)): n
        for n in range(num)
    }
    objects: ObjectStore = workspace.artifacts.objects
    asked_ever: set[str] = set()
    for life in range(4):
        with CompletionStore(objects, tmp_path / "spy", "scripted:1") as spy:
            stored = {f"p{keys[key]}" for key in spy.get_many(list(keys))}
        lost = max(lost, len(asked_ever - stored))
        assert stored <= asked_ever
        asked, output = _live(
            tmp_path / f"cache-{life // 2}", num, kill_after=100, is_last=life == 3
        )
        assert not stored & asked, "paid twice"
        asked_ever |= asked
    assert asked_ever == {f"p{n}" for n in range(num)}
    assert json.loads(output) == [f"echo p{n}" for n in range(num)]
    # 0.2 seconds are 50 completions here; the rest is for a machine that is busy.
    assert lost <= 150


def _live(cache: Path, num: int, *, kill_after: int, is_last: bool) -> tuple[set[str], str]:
    """Run; kill in the middle unless it is the last time. What was asked, and the last line."""
    lines = []
    with subprocess.Popen(
        [sys.executable, "-c", _RUN.replace("NUM", str(num)), str(cache)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stdout or ():
            lines.append(line.strip())
            if len(lines) == kill_after and not is_last:
                process.send_signal(signal.SIGKILL)
    assert process.returncode == (0 if is_last else -signal.SIGKILL)
    return {line for line in lines if line.startswith("p")}, lines[-1]
