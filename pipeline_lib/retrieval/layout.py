"""How a collection is kept: quantized or exact, in memory or on disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline_lib.config import IndexConfig
from pipeline_lib.errors import ConfigError

if TYPE_CHECKING:
    from qdrant_client.models import SearchParams

Quantization = Literal["none", "int8"]

LARGE_VECTOR_BYTES = 500_000_000
"""Float32 vectors above this size are quantized and kept on disk by 'auto'; it is 325,000 vectors
of 384 dimensions or 122,000 of 1,024."""
OVERSAMPLING = 2.0
"""Candidates taken by int8 for each that is asked for, before the originals are looked at."""
KEYWORD_FIELDS = (
    "document_id",
    "source_uri",
    "language",
    "media_type",
    "title",
    "heading_path",
)
"""Payload fields that filters use; indexed on a server."""
METADATA_FIELD = "metadata"
_FLOAT_BYTES = 4
_SERVER_HINT = "Set RAFTLINE_QDRANT_URL to a Qdrant server, or"


@dataclass(frozen=True)
class CollectionLayout:
    """How a collection is kept. Another layout means another collection."""

    quantization: Quantization = "none"
    on_disk: bool = False


def choose_layout(
    config: IndexConfig, *, num_points: int, dimension: int, is_local: bool
) -> CollectionLayout:
    """The layout for so many points.

    Raises:
        ConfigError: local mode is asked for what only a server can do.
    """
    if is_local:
        _check_local(config)
        return CollectionLayout()
    is_large = num_points * dimension * _FLOAT_BYTES >= LARGE_VECTOR_BYTES
    quantization: Quantization = "int8" if is_large else "none"
    return CollectionLayout(
        quantization=quantization if config.quantization == "auto" else config.quantization,
        on_disk=is_large if config.on_disk == "auto" else config.on_disk == "always",
    )


def payload_indexes(config: IndexConfig) -> dict[str, str]:
    """Payload field to the type of its index."""
    return dict.fromkeys(KEYWORD_FIELDS, "keyword") | {
        f"{METADATA_FIELD}.{index.field}": index.type for index in config.metadata_indexes
    }


def search_params(quantization: Quantization) -> SearchParams | None:
    """What a search of dense vectors has to ask for, so that quantization does not cost quality."""
    from qdrant_client.models import QuantizationSearchParams, SearchParams

    if quantization == "none":
        return None
    return SearchParams(
        quantization=QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING)
    )


def _check_local(config: IndexConfig) -> None:
    if config.quantization == "int8":
        raise ConfigError(
            "index.quantization is 'int8', but Qdrant's local mode does not quantize",
            hint=f"{_SERVER_HINT} index.quantization to 'auto' or 'none'.",
        )
    if config.on_disk == "always":
        raise ConfigError(
            "index.on_disk is 'always', but Qdrant's local mode keeps all vectors in memory",
            hint=f"{_SERVER_HINT} index.on_disk to 'auto' or 'never'.",
        )
    if config.metadata_indexes:
        fields = ", ".join(index.field for index in config.metadata_indexes)
        raise ConfigError(
            f"index.metadata_indexes asks for indexes on {fields}, but Qdrant's local mode has "
            "none",
            hint=f"{_SERVER_HINT} leave index.metadata_indexes empty: filters work without, "
            "only slower.",
        )
