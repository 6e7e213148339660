"""What every configuration model shares, and the names of what comes with Raftline."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

BUNDLED_EMBEDDING_MODEL = "bundled:all-MiniLM-L6-v2"
BUNDLED_LANGUAGE_MODEL = "bundled:SmolLM2-135M-Instruct"
SAMPLE_SOURCE = "sample:python-language-reference"

MAX_NAME_LENGTH = 63
NAME_PATTERN = rf"^[a-z0-9][a-z0-9-]{{0,{MAX_NAME_LENGTH - 1}}}$"
_OPERATIONAL = "operational"


def operational(default: Any, **kwargs: Any) -> Any:
    """A field that cannot change the output; left out of `FrozenConfig.output_config`."""
    return Field(default, json_schema_extra={_OPERATIONAL: True}, **kwargs)


class FrozenConfig(BaseModel):
    """Base of all configuration: immutable, keyword-only, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def output_config(self) -> dict[str, Any]:
        """The JSON-ready part of the configuration that can change the output."""
        payload: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, dict) and extra.get(_OPERATIONAL):
                continue
            value = getattr(self, name)
            if isinstance(value, FrozenConfig):
                payload[name] = value.output_config()
            else:
                payload[name] = self.model_dump(mode="json", include={name})[name]
        return payload


BootstrapSamples = Annotated[
    int,
    Field(ge=100, title="Bootstrap resamples", description="Of the questions, for every interval."),
]
Confidence = Annotated[
    float,
    Field(
        gt=0.5,
        lt=1,
        title="Confidence of intervals",
        description="0.95: an interval that holds the true value 19 times out of 20.",
    ),
]
