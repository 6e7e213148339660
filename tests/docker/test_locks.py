"""The lock files: complete, hashed, in step with pyproject.toml, and without torch."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).resolve().parents[2]
RUNTIME, DEV, BUILD, SERVER, OLDEST = (
    "requirements.lock",
    "requirements-dev.lock",
    "requirements-build.lock",
    "docker/requirements-server.lock",
    "requirements-oldest.lock",
)
ALL = [RUNTIME, DEV, BUILD, SERVER, OLDEST]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


@cache
def pins(path: str) -> dict[str, Version]:
    """Name to pinned version, of what applies on this Python and platform."""
    text = (REPOSITORY / path).read_text().replace("\\\n", " ")
    lines = [line.split(" --hash")[0] for line in text.splitlines() if re.match(r"[a-z]", line)]
    requirements = [Requirement(line) for line in lines]
    return {
        canonicalize_name(each.name): Version(next(iter(each.specifier)).version)
        for each in requirements
        if each.marker is None or each.marker.evaluate()
    }


def unmet(requirements: list[str], locked: dict[str, Version]) -> list[str]:
    """Requirements that the pins do not satisfy; torch, installed apart, is not looked for."""
    parsed = [Requirement(text) for text in requirements]
    return [
        str(each)
        for each in parsed
        if each.name != "torch"
        and (
            canonicalize_name(each.name) not in locked
            or locked[canonicalize_name(each.name)] not in each.specifier
        )
    ]


@pytest.mark.parametrize("path", ALL)
def test_every_pin_carries_hashes(path: str) -> None:
    text = (REPOSITORY / path).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if re.match(r"[a-z]", line)]
    assert lines
    assert [line for line in lines if "--hash=sha256:" not in line] == []


@pytest.mark.parametrize("path", ALL)
def test_neither_torch_nor_what_only_a_cuda_build_needs_is_locked(path: str) -> None:
    for_cuda = re.compile(r"^(torch|triton|nvidia-|cuda-)")
    assert [name for name in pins(path) if for_cuda.match(name)] == []


def test_the_locks_satisfy_pyproject() -> None:
    dependencies = PROJECT["project"]["dependencies"]
    dev = PROJECT["project"]["optional-dependencies"]["dev"]
    assert unmet(dependencies, pins(RUNTIME)) == []
    assert unmet(dependencies + dev, pins(DEV)) == []
    assert unmet(PROJECT["dependency-groups"]["build"], pins(BUILD)) == []
    assert unmet(PROJECT["dependency-groups"]["server"], pins(SERVER)) == []


def test_all_locks_agree_on_versions() -> None:
    for path in (RUNTIME, BUILD, SERVER):
        both = pins(path).keys() & pins(DEV).keys()
        assert {name: pins(path)[name] for name in both} == {name: pins(DEV)[name] for name in both}


def test_the_oldest_transformers_is_the_lower_bound_of_pyproject() -> None:
    """Then `make test-oldest` holds what the range promises."""
    [promised] = [
        d for d in map(Requirement, PROJECT["project"]["dependencies"]) if d.name == "transformers"
    ]
    [lowest] = [each.version for each in promised.specifier if each.operator == ">="]
    assert pins(OLDEST)["transformers"].release[:2] == Version(lowest).release
    assert unmet(PROJECT["dependency-groups"]["oldest"], pins(OLDEST)) == []


def test_the_makefile_installs_the_torch_that_pyproject_asks_for() -> None:
    [wanted] = [each for each in PROJECT["project"]["dependencies"] if each.startswith("torch==")]
    assert f"TORCH := {wanted}\n" in (REPOSITORY / "Makefile").read_text()
