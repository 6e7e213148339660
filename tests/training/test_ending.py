"""How ranks end: a thread that still computes must not change their exit status."""

import subprocess
import sys

import pytest

SCRIPT = """
import atexit, sys, threading
import torch
from pipeline_lib.training.ending import run_and_end

def compute():
    matrix = torch.ones(300, 300)
    has_begun.set()
    while True:
        matrix @ matrix

def main():
    atexit.register(print, "registered")
    threading.Thread(target=compute, daemon=True).start()
    has_begun.wait()
    print("said", end=" ")
    {end}

has_begun = threading.Event()
run_and_end(main)
"""


@pytest.mark.parametrize(
    ("end", "status", "complaint"),
    [
        ("pass", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(75)", 75, ""),
        ("sys.exit('no such plan')", 1, "no such plan\n"),
        ("raise ValueError('bad plan')", 1, "ValueError: bad plan\n"),
        ("raise KeyboardInterrupt", 1, "KeyboardInterrupt\n"),
    ],
)
def test_a_rank_ends_with_its_own_status_while_a_thread_computes(
    end: str, status: int, complaint: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(end=end)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == status, ended.stderr
    assert ended.stdout == "said registered\n"
    assert ended.stderr.endswith(complaint)
    assert bool(ended.stderr) == bool(complaint)
