"""What a run of the index stage works with: a corpus, a configuration and a fitting model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from pipeline_lib.artifacts.manifest import ArtifactRef, Manifest, canonical_json
from pipeline_lib.config import ChunkConfig, IndexConfig
from pipeline_lib.corpus.chunking import check_fits_model, load_tokenizer, tokenizer_identity
from pipeline_lib.errors import ConfigError
from pipeline_lib.models import ResolvedModel, resolve_model
from pipeline_lib.retrieval.dense import TextEncoder, shared_encoder
from pipeline_lib.retrieval.embedding_cache import EmbeddingCache
from pipeline_lib.retrieval.layout import CollectionLayout, choose_layout
from pipeline_lib.retrieval.schema import collection_name
from pipeline_lib.stage import Workspace

_TOKENIZER_DETAIL = "tokenizer_identity"


@dataclass(frozen=True)
class IndexJob:
    """One run of the stage. Make it by `open`, which checks that all of it fits together."""

    ws: Workspace
    name: str
    config: IndexConfig
    corpus: ArtifactRef
    manifest: Manifest
    encoder: TextEncoder

    @classmethod
    def open(
        cls,
        ws: Workspace,
        name: str,
        config: IndexConfig,
        corpus: ArtifactRef,
        encoder: TextEncoder | None,
    ) -> Self:
        """Look at the corpus and find the model; loads neither.

        Raises:
            ConfigError: the corpus was cut for another tokenizer or for a model that reads more.
        """
        manifest = ws.artifacts.manifest(corpus)
        _check_corpus(manifest, config)
        if encoder is None:
            model = resolve_model(ws.settings, config.embedding_model, ws.progress)
            _check_tokenizer(manifest, config, model)
            encoder = encoder_of(model, config)
        return cls(ws, name, config, corpus, manifest, encoder)

    @property
    def inputs(self) -> Mapping[str, ArtifactRef | str]:
        """What the index artifact is made from."""
        return {"corpus": self.corpus, "embedding_model": self.encoder.identity}

    @property
    def chunker(self) -> str:
        """What cut the chunks: a change of it changes most of them."""
        tokenizer = self.manifest.details.get(_TOKENIZER_DETAIL)
        measured_by = tokenizer or self.manifest.config.get("embedding_model")
        chunking = self.manifest.config.get("chunking")
        return canonical_json([self.manifest.stage_version, chunking, measured_by]).decode()

    def layout(self, num_points: int) -> CollectionLayout:
        """How the collection is kept.

        Raises:
            ConfigError: local mode is asked for what only a server can do.
        """
        return choose_layout(
            self.config,
            num_points=num_points,
            dimension=self.encoder.dimension,
            is_local=not self.ws.settings.qdrant_url,
        )

    def collection(self, layout: CollectionLayout) -> str:
        """The collection's name."""
        return collection_name(
            self.name,
            embedding_identity=self.encoder.identity,
            bm25_language=self.config.bm25_language,
            chunker=self.chunker,
            layout=layout,
        )

    def open_cache(self) -> EmbeddingCache:
        """The embedding cache; may load the model."""
        return open_cache(self.ws, self.encoder)


def encoder_of(model: ResolvedModel, config: IndexConfig) -> TextEncoder:
    """This process's one encoder for the model."""
    return shared_encoder(model.path, model.identity, config.batch_tokens)


def open_cache(ws: Workspace, encoder: TextEncoder) -> EmbeddingCache:
    """The embedding cache of an encoder; may load the model."""
    return EmbeddingCache.open(ws.artifacts.objects, ws.settings.embedding_cache, encoder)


def _check_corpus(manifest: Manifest, config: IndexConfig) -> None:
    if manifest.ref.kind != "corpus":
        raise ConfigError(
            f"An index is made from a corpus, not from {manifest.ref}",
            hint="Give a reference like corpus/<name>@latest.",
        )
    chunked_for = manifest.config.get("embedding_model")
    # Older corpora do not say by which tokenizer they were measured, only by whose.
    if _TOKENIZER_DETAIL not in manifest.details and chunked_for != config.embedding_model:
        raise ConfigError(
            f"embedding_model is {config.embedding_model!r}, but the chunks of {manifest.ref} were "
            f"measured with {chunked_for!r}",
            hint="Give the ingest and the index stage the same embedding_model, or ingest again.",
        )


def _check_tokenizer(manifest: Manifest, config: IndexConfig, model: ResolvedModel) -> None:
    """Chunks must measure the same by this model's tokenizer, and fit into its input."""
    measured_by = manifest.details.get(_TOKENIZER_DETAIL)
    if measured_by is not None and measured_by != tokenizer_identity(model.path):
        raise ConfigError(
            f"embedding_model is {config.embedding_model!r}, whose tokenizer is another than that "
            f"of {manifest.config.get('embedding_model')!r}, which measured the chunks of "
            f"{manifest.ref}",
            hint="Ingest with this embedding_model, or index with one that has the same "
            "tokenizer, such as a fine-tuned version of it.",
        )
    chunking = ChunkConfig.model_validate(manifest.config["chunking"])
    check_fits_model(chunking, model.path, load_tokenizer(model.path))
