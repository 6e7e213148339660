"""Files that TensorBoard reads."""

from __future__ import annotations

import struct
from pathlib import Path

from pipeline_lib.training.tensorboard import ScalarWriter

WRITTEN_BY_TENSORBOARD = bytes.fromhex(
    "1800000000000000a37f4b220900002040fc54d9411a0d627261696e2e4576656e743a322b353110"
    "2100000000000000017becf60900002040fc54d94110ac022a130a110a0a6c6f73732f747261696e"
    "150000a03fc495b779"
)
"""By TensorBoard 2.21: `RecordWriter.write(Event(...).SerializeToString())` of an event with the
file's version and of one with `loss/train` = 1.25 at step 300, both at 1,700,000,000.5 s."""


def at_noon() -> float:
    return 1_700_000_000.5


def test_the_bytes_are_those_of_tensorboards_own_writer(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.test"
    ScalarWriter(path, clock=at_noon).add(300, {"loss/train": 1.25})
    assert path.read_bytes() == WRITTEN_BY_TENSORBOARD


def test_a_growing_file_holds_whole_records_only(tmp_path: Path) -> None:
    path = tmp_path / "new-folder" / "events.out.tfevents.test"
    scalars = ScalarWriter(path, clock=at_noon)
    for step in (0, 1, 200_000):
        scalars.add(step, {"loss/train": 1.0, "speed/mfu": 0.5})
        content, num_records = path.read_bytes(), 0
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            assert len(content) >= length + 16
            content, num_records = content[length + 16 :], num_records + 1
    assert num_records == 4
