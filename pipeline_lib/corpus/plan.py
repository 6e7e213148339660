"""A plan's lists of inputs in S3: what the workers of a fan-out, and the step after it, read.

They lie in the artifact's partial work and go with it when the corpus is published.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import asdict

from pipeline_lib.artifacts.manifest import canonical_json
from pipeline_lib.artifacts.partial import PartialWork
from pipeline_lib.corpus.schema import Drop
from pipeline_lib.corpus.shards import Shard
from pipeline_lib.corpus.sources.base import SourceScan
from pipeline_lib.corpus.sources.locators import source_input_from_dict, source_input_to_dict
from pipeline_lib.errors import ArtifactNotFoundError

_SCAN = "plan/scan.json.gz"


def write_scan(partial: PartialWork, scan: SourceScan) -> None:
    """Keep a scan, so that the sources are not listed a second time."""
    content = {
        "inputs": [source_input_to_dict(item) for item in scan.inputs],
        "drops": [asdict(drop) for drop in scan.drops],
        "digest": scan.digest,
        "num_read": scan.num_read,
    }
    partial.put(_SCAN, gzip.compress(canonical_json(content), mtime=0))


def read_scan(partial: PartialWork) -> SourceScan | None:
    """The scan of a plan, or `None` when the partial work has gone (the corpus is published)."""
    data = partial.get(_SCAN)
    if data is None:
        return None
    content = json.loads(gzip.decompress(data))
    return SourceScan(
        inputs=tuple(map(source_input_from_dict, content["inputs"])),
        drops=tuple(Drop(**drop) for drop in content["drops"]),
        digest=content["digest"],
        num_read=content["num_read"],
    )


def write_shard_inputs(partial: PartialWork, shard: Shard) -> None:
    """Keep which inputs a shard has."""
    inputs = [source_input_to_dict(item) for item in shard.inputs]
    partial.put(_shard_key(shard.key), gzip.compress(canonical_json(inputs), mtime=0))


def read_shard_inputs(partial: PartialWork, key: str) -> Shard:
    """A shard of a plan.

    Raises:
        ArtifactNotFoundError: the plan's partial work has gone.
    """
    data = partial.get(_shard_key(key))
    if data is None:
        raise ArtifactNotFoundError(
            f"The shard {key} is not in the plan any more: its corpus was published, or deleted",
            hint="Run ingest again.",
        )
    inputs = map(source_input_from_dict, json.loads(gzip.decompress(data)))
    return Shard(key, tuple(inputs))


def _shard_key(key: str) -> str:
    return f"plan/{key}.json.gz"
