"""Where the services are: S3, Qdrant, Prefect, the teacher's endpoint.

Settings say *where*, `pipeline_lib.config` says *what*. They come from environment variables
with the prefix `RAFTLINE_`, then from `<home>/stack.env`, which `raftline up` writes for the local
stack (mode 0600); so an exported variable always wins over the local stack. Secrets are `SecretStr`
and reach neither logs nor manifests.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

DEFAULT_HOME = ".raftline"


def home_from_environment() -> Path:
    """The folder for everything local (`RAFTLINE_HOME`, default `./.raftline`), absolute."""
    return Path(os.environ.get("RAFTLINE_HOME", DEFAULT_HOME)).expanduser().resolve()


class Settings(BaseSettings):
    """Addresses and credentials of the services one run talks to."""

    model_config = SettingsConfigDict(env_prefix="RAFTLINE_", extra="ignore", frozen=True)

    home: Path = Field(default_factory=home_from_environment)
    """Folder for local state: caches, the local stack's data, logs."""

    s3_endpoint_url: str | None = None
    """S3 endpoint; `None` means AWS."""
    s3_bucket: str = "raftline"
    """Bucket that holds every artifact; created when missing."""
    s3_prefix: str = ""
    """Key prefix inside the bucket, without slashes at its ends."""
    s3_region: str = "us-east-1"
    """Region for request signing."""
    s3_access_key_id: SecretStr | None = None
    """Access key; `None` lets boto3 find credentials its usual way."""
    s3_secret_access_key: SecretStr | None = None
    """Secret key belonging to `s3_access_key_id`."""

    source_s3_endpoint_url: str | None = None
    """S3 endpoint of `s3://` sources. When none of the four `source_s3_*` is set, sources are read
    with the artifact store's own; else only these count, and no endpoint means AWS."""
    source_s3_region: str | None = None
    """Region of `s3://` sources."""
    source_s3_access_key_id: SecretStr | None = None
    """Access key for `s3://` sources; reading and listing is enough."""
    source_s3_secret_access_key: SecretStr | None = None
    """Secret key belonging to `source_s3_access_key_id`."""

    qdrant_url: str | None = None
    """Qdrant server, for example `https://qdrant.example:6333`; `None` means local mode."""
    qdrant_api_key: SecretStr | None = None
    """API key of the Qdrant server."""
    qdrant_prefer_grpc: bool = False
    """Use gRPC instead of REST: about half the bytes, so faster bulk loads."""
    qdrant_grpc_port: int = Field(default=6334, gt=0, lt=65536)
    """Port of the server's gRPC interface."""
    qdrant_ca_file: Path | None = None
    """Certificates (PEM) that a TLS server is checked against; `None`: those of the system."""
    qdrant_timeout_seconds: int = Field(default=60, gt=0)
    """Time limit of one request."""
    qdrant_max_retries: int = Field(default=5, ge=0)
    """How often a request is repeated that met a timeout, a dropped connection, 429 or 5xx."""
    qdrant_lock_timeout_seconds: float = Field(default=600.0, gt=0)
    """Local mode: how long to wait for another process to let go of the folder."""

    teacher_base_url: str | None = None
    """OpenAI-compatible endpoint, for example `http://localhost:8000/v1`."""
    teacher_api_key: SecretStr | None = None
    """API key of the teacher endpoint."""
    teacher_api_version: str | None = None
    """Set it for Azure OpenAI's deployments, for example `2024-10-21`: requests carry it as
    `api-version` and the key as `api-key`; the base URL ends in `/openai/deployments/<name>`."""

    def for_source_bucket(self, bucket: str) -> Settings:
        """Settings of an object store over a bucket that is a source."""
        place = {"s3_bucket": bucket, "s3_prefix": ""}
        own = (
            self.source_s3_endpoint_url,
            self.source_s3_region,
            self.source_s3_access_key_id,
            self.source_s3_secret_access_key,
        )
        if not any(own):
            return self.model_copy(update=place)
        endpoint, region, key, secret = own
        return self.model_copy(
            update={
                **place,
                "s3_endpoint_url": endpoint,
                "s3_region": region or "us-east-1",
                "s3_access_key_id": key,
                "s3_secret_access_key": secret,
            }
        )

    @property
    def qdrant_path(self) -> Path:
        """Folder of Qdrant's local mode."""
        return self.home / "qdrant"

    @property
    def model_cache(self) -> Path:
        """Folder of unpacked model wheels and downloaded models."""
        return Path(os.environ.get("RAFTLINE_MODEL_CACHE", self.home / "models"))

    @property
    def artifact_cache(self) -> Path:
        """Folder of verified local copies of artifacts."""
        return self.home / "cache" / "artifacts"

    @property
    def embedding_cache(self) -> Path:
        """Folder of vectors that were fetched from the store or made here; safe to delete."""
        return self.home / "cache" / "embeddings"

    @property
    def completion_cache(self) -> Path:
        """Folder of what teachers wrote, as read from the store; safe to delete."""
        return self.home / "cache" / "completions"

    @property
    def scratch(self) -> Path:
        """Folder for unfinished work; safe to delete while nothing runs."""
        return self.home / "scratch"


def load_settings(home: Path | None = None) -> Settings:
    """Read settings from the environment, then from the local stack's `stack.env`."""
    resolved = (home or home_from_environment()).resolve()
    return Settings(_env_file=resolved / "stack.env", home=resolved)
