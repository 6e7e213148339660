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

    qdrant_url: str | None = None
    """Qdrant server, for example `https://qdrant.example:6333`; `None` means local mode."""
    qdrant_api_key: SecretStr | None = None
    """API key of the Qdrant server."""
    qdrant_prefer_grpc: bool = False
    """Use gRPC (port 6334) for bulk loads."""
    qdrant_lock_timeout_seconds: float = Field(default=600.0, gt=0)
    """Local mode: how long to wait for another process to let go of the folder."""

    teacher_base_url: str | None = None
    """OpenAI-compatible endpoint, for example `http://localhost:8000/v1`."""
    teacher_api_key: SecretStr | None = None
    """API key of the teacher endpoint."""

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
    def scratch(self) -> Path:
        """Folder for unfinished work; safe to delete while nothing runs."""
        return self.home / "scratch"


def load_settings(home: Path | None = None) -> Settings:
    """Read settings from the environment, then from the local stack's `stack.env`."""
    resolved = (home or home_from_environment()).resolve()
    return Settings(_env_file=resolved / "stack.env", home=resolved)
