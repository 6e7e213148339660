"""Keeping every completion: what it costs beside one object for each, and how it grows.

    python -m benchmarks.synthesis.completions [--completions 20000] [--per-object 500] [--rounds 3]

A teacher that answers at once (1,200 characters, in groups of 32) is asked through `MeteredTeacher`
with its store on a local S3 server, so that all there is to measure is keys, look-ups, the store,
the ledger and the budget. The peer keeps what checkpoints of other RAFT builders keep, one object
for each answer, through the same client. Both in turn (A B A B …), in CPU seconds of this process,
that of its writing thread included; the server's are not counted.

Printed: milliseconds of CPU for each completion, the ratio, and objects left in the bucket; then
for the store alone a second run that finds everything, on this machine and on one that has not read
the bucket yet, and peak memory.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from pydantic import SecretStr

from deployments.stack.s3 import RcloneServer
from pipeline_lib.artifacts.object_store import ObjectStore
from pipeline_lib.config import BudgetConfig, PriceConfig
from pipeline_lib.generation.base import Completion, GenerationParams, OnCompleted, Prompt
from pipeline_lib.generation.completion_segments import completion_key, encode_result
from pipeline_lib.generation.completion_store import CompletionStore
from pipeline_lib.generation.metered import MeteredTeacher
from pipeline_lib.settings import Settings

PARAMS = GenerationParams(max_new_tokens=400)
PROMPT_CHARS = 3_000
GROUP = 32


class InstantTeacher:
    """Answers at once, in groups."""

    model_identity = "instant"

    def __init__(self) -> None:
        from pydoc_data.topics import topics

        self._text = " ".join(" ".join(topics.values()).split())

    def prompts(self, count: int) -> list[Prompt]:
        """Different passages of Python's language reference, each with a number."""
        rng = random.Random(0)
        starts = [rng.randrange(len(self._text) - PROMPT_CHARS) for _ in range(count)]
        return [
            Prompt.chat([{"role": "user", "content": f"{n} {self._text[s : s + PROMPT_CHARS]}"}])
            for n, s in enumerate(starts)
        ]

    def generate(
        self,
        prompts: Sequence[Prompt],
        params: GenerationParams,
        *,
        on_completed: OnCompleted | None = None,
    ) -> list[Completion]:
        """The first words of each prompt."""
        done, length = [], 3 * params.max_new_tokens
        for start in range(0, len(prompts), GROUP):
            group = [
                Completion(prompt.chat_messages()[0]["content"][:length], 750, 300, "stop", 0, 1.0)
                for prompt in prompts[start : start + GROUP]
            ]
            done += group
            if on_completed is not None:
                on_completed(range(start, start + len(group)), group)
        return done


def metered(objects: ObjectStore, cache: Path, teacher: InstantTeacher, count: int) -> None:
    """Ask for everything through the store."""
    prices = PriceConfig(input_per_million=1, output_per_million=4)
    with CompletionStore(objects, cache, teacher.model_identity) as store:
        MeteredTeacher(
            lambda: teacher, teacher.model_identity, store, prices, BudgetConfig(max_cost=1e9)
        ).generate(teacher.prompts(count), PARAMS, step="asking")


def one_object_each(objects: ObjectStore, teacher: InstantTeacher, count: int) -> None:
    """The peer."""
    prompts = teacher.prompts(count)

    def keep(indices: Sequence[int], completions: Sequence[Completion]) -> None:
        for index, completion in zip(indices, completions, strict=True):
            key = completion_key(teacher.model_identity, prompts[index], PARAMS)
            objects.put_bytes(f"each/{key}.json", encode_result(completion))

    teacher.generate(prompts, PARAMS, on_completed=keep)


def cpu_milliseconds(action: Callable[[], None], count: int) -> float:
    """Of this process, all threads, for each of `count` completions."""
    started = time.process_time()
    action()
    return (time.process_time() - started) / count * 1e3


def open_bucket(server: RcloneServer, prefix: str) -> ObjectStore:
    """A client of the server, below a prefix of its own."""
    return ObjectStore(
        Settings(
            s3_endpoint_url=server.endpoint_url,
            s3_bucket=server.bucket,
            s3_prefix=prefix,
            s3_access_key_id=SecretStr(server.access_key_id),
            s3_secret_access_key=SecretStr(server.secret_access_key),
        )
    )


def compare(server: RcloneServer, folder: Path, options: argparse.Namespace) -> None:
    """Both ways, in turn."""
    teacher, ratios = InstantTeacher(), []
    for number in range(options.rounds):
        objects = open_bucket(server, f"round-{number}")
        ask = partial(metered, objects, folder / f"{number}", teacher, options.completions)
        ours = cpu_milliseconds(ask, options.completions)
        ask_peer = partial(one_object_each, objects, teacher, options.per_object)
        peer = cpu_milliseconds(ask_peer, options.per_object)
        ratios.append(peer / ours)
        num_objects = sum(1 for _ in objects.scan("_completions/"))
        print(
            f"store {ours:6.3f} ms, {num_objects} objects for {options.completions:,}"
            f"   one object each {peer:6.3f} ms   ratio {ratios[-1]:.1f}x"
        )
    middle = statistics.median(ratios)
    print(f"ratio {middle:.1f}x ({min(ratios):.1f} to {max(ratios):.1f} over {len(ratios)} pairs)")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--completions", type=int, default=20_000)
    parser.add_argument("--per-object", type=int, default=500, help="completions of the peer")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, RcloneServer(Path(name) / "s3") as server:
        folder = Path(name)
        compare(server, folder, options)
        for label, cache in (("again, here", "0"), ("again, elsewhere", "nobody's")):
            objects = open_bucket(server, "round-0")
            ask = partial(metered, objects, folder / cache, InstantTeacher(), options.completions)
            print(f"{label:18} {cpu_milliseconds(ask, options.completions):6.3f} ms")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MB, all prompts and completions of a run included")


if __name__ == "__main__":
    main()
