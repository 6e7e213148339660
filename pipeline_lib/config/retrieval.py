"""How an index is searched."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from pipeline_lib.config.base import FrozenConfig

METADATA_PREFIX = "metadata."
FILTER_FIELDS = (
    "document_id",
    "source_uri",
    "title",
    "language",
    "media_type",
    "heading",
)
"""What can be filtered on, besides `metadata.<key>`."""

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")
_METADATA_FIELD = re.compile(r'metadata(\.[^."\[\]]+)+')


def _as_text(value: Any) -> Any:
    """Numbers and booleans as they are written in JSON; forms and options give text anyway."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


FilterValue = Annotated[str, BeforeValidator(_as_text)]


class SearchFilter(FrozenConfig):
    """A condition that a chunk must fulfil to be found."""

    field: str = Field(
        title="Field",
        description=f"{', '.join(FILTER_FIELDS)}, or metadata.<key> for what the documents' "
        "source says of them; dots lead into nested objects. A heading counts anywhere above the "
        "chunk.",
    )
    operator: Literal["equals", "any_of", "not", "prefix", "range"] = Field(
        "equals",
        title="Operator",
        description="equals: has the value. any_of: has one of the values. not: has none of the "
        "values, or no such field. prefix: begins with the value. range: lies between minimum and "
        "maximum.",
    )
    values: tuple[FilterValue, ...] = Field(
        (),
        title="Values",
        description="As written: 2020 finds the number 2020 and the text 2020. Case counts.",
    )
    minimum: FilterValue | None = Field(
        None,
        title="Minimum",
        description="For range, inclusive: a number, or a date (2020-05-01, 2020-05-01T12:00Z).",
    )
    maximum: FilterValue | None = Field(
        None,
        title="Maximum",
        description="For range, inclusive: a number, or a date; without a time, the whole day.",
    )

    @field_validator("field")
    @classmethod
    def _check_field(cls, value: str) -> str:
        if value not in FILTER_FIELDS and not _METADATA_FIELD.fullmatch(value):
            raise ValueError(
                f"there is no field {value!r} to filter on; there are {', '.join(FILTER_FIELDS)} "
                "and metadata.<key>"
            )
        return value

    @model_validator(mode="after")
    def _check_operands(self) -> Self:
        if self.operator == "range":
            return self._check_range()
        if self.minimum is not None or self.maximum is not None:
            raise ValueError(f"minimum and maximum belong to range, not to {self.operator}")
        if not self.values:
            raise ValueError(f"{self.operator} needs a value")
        if self.operator in ("equals", "prefix") and len(self.values) > 1:
            raise ValueError(f"{self.operator} takes one value, not {len(self.values)}; see any_of")
        return self

    def _check_range(self) -> Self:
        if self.values:
            raise ValueError("range takes minimum and maximum, not values")
        bounds = [parse_bound(b) for b in (self.minimum, self.maximum) if b is not None]
        if not bounds:
            raise ValueError("range needs a minimum or a maximum")
        if len({isinstance(bound, datetime) for bound in bounds}) > 1:
            raise ValueError("range needs two numbers or two dates, not one of each")
        return self


def parse_number(text: str) -> int | float | None:
    """The number that a text is in JSON; `None` when it is none."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    return int(text) if match[2] is None and match[3] is None else float(text)


def parse_bound(text: str) -> float | datetime:
    """A bound of a range: a number, or a point in time (UTC where it names no zone).

    Raises:
        ValueError: it is neither.
    """
    number = parse_number(text)
    if number is not None:
        return number
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is neither a number nor a date like 2020-05-01") from error
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


class RerankConfig(FrozenConfig):
    """A second look at the best candidates, by a model that reads query and chunk together."""

    model: str = Field(
        "",
        title="Model",
        description="A sentence-transformers CrossEncoder: hub id, local folder or s3://…; "
        "empty: no reranking.",
    )
    num_candidates: int = Field(
        50,
        ge=1,
        le=1_000,
        title="Candidates",
        description="How many of the best chunks the model reads for each query; at least as many "
        "as are asked for.",
    )


class ExpandConfig(FrozenConfig):
    """How much of its document is returned around a chunk that was found."""

    unit: Literal["none", "neighbours", "section"] = Field(
        "none",
        title="Expand to",
        description="none: the chunk alone. neighbours: the chunks before and after it. section: "
        "those of them that stand under the same heading.",
    )
    max_tokens: int = Field(
        512,
        ge=1,
        le=100_000,
        title="Longest passage (tokens)",
        description="Tokens of the embedding model. A chunk that is longer stays as it is.",
    )


class RetrievalConfig(FrozenConfig):
    """How a query finds chunks."""

    mode: Literal["hybrid", "dense", "sparse"] = Field(
        "hybrid", title="Mode", description="Which vectors answer a query."
    )
    fusion: Literal["dbsf", "rrf"] = Field(
        "dbsf",
        title="Fusion",
        description="How hybrid search joins its branches: distribution-based score fusion, "
        "or reciprocal rank fusion.",
    )
    rrf_k: int = Field(
        60,
        ge=1,
        title="RRF k",
        description="Rank constant of reciprocal rank fusion; ranks count from 1.",
    )
    dense_weight: float = Field(
        1.0,
        ge=0,
        le=1_000,
        title="Weight of the dense branch",
        description="In hybrid search; 0: its ranks and scores do not count.",
    )
    sparse_weight: float = Field(
        1.0,
        ge=0,
        le=1_000,
        title="Weight of the sparse branch",
        description="In hybrid search; 0: its ranks and scores do not count.",
    )
    prefetch_limit: int = Field(
        50, ge=1, le=10_000, title="Candidates per branch", description="Before fusion."
    )
    filters: tuple[SearchFilter, ...] = Field(
        (), title="Filters", description="A chunk is found only if it fulfils all of them."
    )
    rerank: RerankConfig = Field(default_factory=RerankConfig, title="Reranking")
    mmr_lambda: float = Field(
        1.0,
        ge=0,
        le=1,
        title="MMR lambda",
        description="Maximal marginal relevance: 1 ranks by relevance alone; the lower, the more "
        "a chunk loses by resembling those above it.",
    )
    expand: ExpandConfig = Field(default_factory=ExpandConfig, title="Expansion")

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if self.mode == "hybrid" and self.dense_weight == self.sparse_weight == 0:
            raise ValueError("dense_weight and sparse_weight cannot both be 0")
        return self
