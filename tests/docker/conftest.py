"""The Docker files as data: parsed, and with compose's variables filled in."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import AliasChoices, BaseModel

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKER = REPOSITORY / "docker"
_REFERENCE = re.compile(r"(?<!\$)\$\{(\w+)(?::([-?])([^}]*))?\}")


@dataclass(frozen=True)
class Instruction:
    """One Dockerfile instruction, its lines joined."""

    name: str
    rest: str

    @property
    def words(self) -> list[str]:
        """Its arguments, whether written as a JSON list or as a shell line."""
        if self.rest.startswith("["):
            words: list[str] = json.loads(self.rest)
            return words
        return shlex.split(self.rest)


def read_dockerfile(path: Path) -> list[Instruction]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    pairs = (line.split(maxsplit=1) for line in text.splitlines() if line.strip())
    return [Instruction(name, rest.strip()) for name, rest in pairs]


def interpolate(value: Any, environment: Mapping[str, str]) -> Any:
    """What compose makes of a value: `${…}` filled in, `$$` turned into `$`."""
    if isinstance(value, dict):
        return {key: interpolate(item, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolate(item, environment) for item in value]
    if not isinstance(value, str):
        return value

    def fill(match: re.Match[str]) -> str:
        name, operator, rest = match.groups()
        if environment.get(name):
            return environment[name]
        if operator == "-":
            return rest
        raise KeyError(f"{name}: {rest}")

    return _REFERENCE.sub(fill, value).replace("$$", "$")


def example_environment() -> dict[str, str]:
    """`.env.example` filled in as its comments say: every open secret gets 48 hex digits."""
    lines = (DOCKER / ".env.example").read_text().splitlines()
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {name: value or "0123456789abcdef" * 3 for name, value in pairs}


@pytest.fixture(scope="session")
def docker_folder() -> Path:
    return DOCKER


@pytest.fixture(scope="session")
def compose_references() -> list[tuple[str, str, str]]:
    """Every `${NAME}`, `${NAME:-default}` and `${NAME:?message}`: name, operator, rest."""
    return _REFERENCE.findall((DOCKER / "compose.yaml").read_text())


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    """The compose file as an engine would see it with a filled-in `.env.example`."""
    document = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    filled: dict[str, Any] = interpolate(document, example_environment())
    return filled


@pytest.fixture(scope="session")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


@pytest.fixture(scope="session")
def prefect_variables() -> set[str]:
    """Every environment variable that Prefect and its Redis extension read."""
    from prefect.settings import Settings
    from prefect_redis.client import RedisMessagingSettings

    return _variables(Settings) | _variables(RedisMessagingSettings)


def _variables(model: type[BaseModel]) -> set[str]:
    prefix = str(model.model_config.get("env_prefix", "")).upper()
    found: set[str] = set()
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= _variables(kind)
        found.add(prefix + name.upper())
        if isinstance(field.validation_alias, AliasChoices):
            choices = field.validation_alias.choices
            found |= {choice.upper() for choice in choices if isinstance(choice, str)}
    return found


@pytest.fixture(scope="session")
def dockerfiles() -> dict[str, list[Instruction]]:
    return {path.name: read_dockerfile(path) for path in sorted(DOCKER.glob("Dockerfile.*"))}
