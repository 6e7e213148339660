"""From options and files to validated configuration, with errors that name the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from pipeline_lib.config import FrozenConfig, PipelineConfig
from pipeline_lib.errors import ConfigError

Config = TypeVar("Config", bound=FrozenConfig)


def validated(model: type[Config], values: Mapping[str, Any], source: str) -> Config:
    """The values as a configuration model.

    Args:
        model: which configuration.
        values: its fields.
        source: where they came from; opens the error message.

    Raises:
        ConfigError: a field is unknown, missing, or its value is refused.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = [_described(problem) for problem in error.errors(include_url=False)]
        raise ConfigError(f"{source}: {'; '.join(problems)}") from error


def read_config_file(path: Path) -> dict[str, Any]:
    """The content of a JSON or YAML file that holds one mapping.

    Raises:
        ConfigError: no such file, not JSON or YAML, or not a mapping.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, yaml.YAMLError) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid {kind}: {reason}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} holds a {type(content).__name__}, not a mapping of fields",
            hint="Write for example: synthesize: {num_questions: 200}",
        )
    return content


def read_pipeline_config(file: Path | None, name: str | None, command: str) -> PipelineConfig:
    """The configuration of a whole pipeline: what the file says, and above it the name.

    Args:
        file: JSON or YAML; `None` for the defaults.
        name: of the pipeline; `None` leaves it as the file has it.
        command: opens error messages where there is no file.

    Raises:
        ConfigError: the file cannot be read, or a field's value is refused.
    """
    values = read_config_file(file) if file else {}
    if name is not None:
        values["name"] = name
    return validated(PipelineConfig, values, str(file) if file else command)


def _described(problem: Mapping[str, Any]) -> str:
    field = ".".join(str(part) for part in problem["loc"])
    reason = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return f"there is no field {field!r}"
    return f"{field}: {reason} (got {problem['input']!r})" if field else reason
