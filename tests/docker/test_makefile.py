"""The Makefile: what the documentation and CI ask it for, it has."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MENTIONING = ["CONTRIBUTING.md", "README.md", ".ci/run"]


def make(*arguments: str) -> str:
    done = subprocess.run(
        ["make", *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("document", MENTIONING)
def test_every_make_command_that_a_document_names_exists(document: str) -> None:
    text = (REPOSITORY / document).read_text()
    code = "\n".join(re.findall(r"^make [a-z-]+|`make [a-z-]+", text, re.MULTILINE))
    targets = set(re.findall(r"make ([a-z-]+)", code))
    assert targets
    # A folder that does not exist: nothing counts as installed, and nothing is touched.
    make("--dry-run", "VENV=/nonexistent/venv", *sorted(targets))


def test_make_alone_lists_every_target_with_its_purpose() -> None:
    shown = make()
    targets = re.findall(r"^\.PHONY: ([a-z-]+)$", (REPOSITORY / "Makefile").read_text(), re.M)
    assert targets
    assert [name for name in targets if not re.search(rf"^  make {name} +\S", shown, re.M)] == []


def test_a_failed_installation_leaves_no_mark_of_success(tmp_path: Path) -> None:
    """The mark is what makes the next call skip the installation."""
    venv = tmp_path / "venv"
    failed = subprocess.run(
        ["make", "install", f"VENV={venv}", "PYTHON=false"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert failed.returncode != 0
    assert not list(tmp_path.glob("**/.installed-*"))
