"""Objects in one S3 bucket, by boto3: bounded memory, translated errors, conditional writes.

Works against any S3-compatible service. Throttling, timeouts and 5xx are retried by botocore with
exponential backoff and jitter; what is left becomes `StoreUnavailableError`.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.errors import (
    ObjectNotFoundError,
    PreconditionFailedError,
    StoreAccessError,
    StoreError,
    StoreUnavailableError,
)
from pipeline_lib.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MULTIPART_BYTES = 16 * 1024 * 1024
"""Files above this size travel in parts of this size."""
MULTIPART_CONCURRENCY = 4
"""Parts in flight: memory for a transfer stays near 4 x 16 MiB."""
_HASH_BLOCK_BYTES = 1024 * 1024
_READ_BLOCK_BYTES = 256 * 1024
_DELETE_BATCH = 1000
_NOT_FOUND = {"NoSuchKey", "NoSuchBucket", "NoSuchUpload", "404", "NotFound"}
_PRECONDITION = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_ACCESS = {
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "401",
    "403",
}
_THROTTLED = {"SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "InternalError"}


@dataclass(frozen=True)
class ObjectInfo:
    """What a listing tells about an object."""

    key: str
    size_bytes: int
    etag: str


def sha256_file(path: Path) -> str:
    """SHA-256 of a file as hex, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


class ObjectStore:
    """The objects under `settings.s3_prefix` in `settings.s3_bucket`.

    Keys are relative to the prefix. One instance may be used from several threads (boto3 clients
    are thread-safe); open one per process.
    """

    def __init__(self, settings: Settings) -> None:
        self.bucket = settings.s3_bucket
        self.prefix = f"{settings.s3_prefix.strip('/')}/" if settings.s3_prefix.strip("/") else ""
        self.endpoint = settings.s3_endpoint_url or "AWS S3"
        self._client = _make_client(settings)

    def uri(self, key: str) -> str:
        """The `s3://` address of a key."""
        return f"s3://{self.bucket}/{self.prefix}{key}"

    def ensure_bucket(self) -> None:
        """Create the bucket when it is missing.

        Raises:
            StoreAccessError: the credentials may neither use nor create it.
        """
        with self._translated("create", ""):
            try:
                self._client.head_bucket(Bucket=self.bucket)
            except self._client.exceptions.ClientError as error:
                if _code(error) not in _NOT_FOUND:
                    raise
                self._client.create_bucket(Bucket=self.bucket)

    def put_bytes(
        self, key: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False
    ) -> str:
        """Write a small object and return its ETag.

        Args:
            key: where.
            data: what.
            if_match: write only when the current object has this ETag.
            if_absent: write only when there is no object yet.

        Raises:
            PreconditionFailedError: the condition did not hold. A server that does not know
                conditional writes ignores the condition.
        """
        conditions: dict[str, Any] = {}
        if if_match is not None:
            conditions["IfMatch"] = if_match
        if if_absent:
            conditions["IfNoneMatch"] = "*"
        with self._translated("write", key):
            response = self._client.put_object(
                Bucket=self.bucket, Key=self.prefix + key, Body=data, **conditions
            )
        return response["ETag"]

    def put_file(self, key: str, path: Path) -> None:
        """Upload a file; multipart when large, aborted cleanly when it fails."""
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(
            multipart_threshold=MULTIPART_BYTES,
            multipart_chunksize=MULTIPART_BYTES,
            max_concurrency=MULTIPART_CONCURRENCY,
        )
        with self._translated("upload", key):
            self._client.upload_file(str(path), self.bucket, self.prefix + key, Config=config)

    def get_bytes(self, key: str) -> bytes:
        """Read a small object.

        Raises:
            ObjectNotFoundError: there is none.
        """
        return self.get_with_etag(key)[0]

    def get_with_etag(self, key: str) -> tuple[bytes, str]:
        """Read a small object together with the ETag that `if_match` takes."""
        with self._translated("read", key):
            response = self._client.get_object(Bucket=self.bucket, Key=self.prefix + key)
            return response["Body"].read(), response["ETag"]

    def read_blocks(
        self, key: str, *, block_bytes: int = _READ_BLOCK_BYTES
    ) -> Generator[bytes, None, None]:
        """An object's content, a block at a time; stop iterating to leave the rest unread.

        Raises:
            ObjectNotFoundError: there is none.
        """
        with self._translated("read", key):
            response = self._client.get_object(Bucket=self.bucket, Key=self.prefix + key)
            with closing(response["Body"]) as body:
                yield from body.iter_chunks(block_bytes)

    def get_file(self, key: str, path: Path) -> None:
        """Download to `path`, which appears only when it is complete."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        try:
            with self._translated("download", key):
                self._client.download_file(self.bucket, self.prefix + key, str(unfinished))
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)

    def presigned_url(self, key: str, *, valid_seconds: int, content_type: str) -> str:
        """An address at which a browser can read one object until it expires.

        Whoever has the address can read the object, without credentials.

        Args:
            key: which object.
            valid_seconds: S3 allows at most 604,800 (7 days); temporary credentials end it earlier.
            content_type: how the browser shall take it, for example `text/html`.
        """
        with self._translated("sign an address for", key):
            return self._client.generate_presigned_url(
                "get_object",
                Params={
                    "Bucket": self.bucket,
                    "Key": self.prefix + key,
                    "ResponseContentType": content_type,
                },
                ExpiresIn=valid_seconds,
            )

    def exists(self, key: str) -> bool:
        """Whether there is an object under exactly this key."""
        try:
            with self._translated("look up", key):
                self._client.head_object(Bucket=self.bucket, Key=self.prefix + key)
        except ObjectNotFoundError:
            return False
        return True

    def scan(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose key starts with `prefix`, in key order."""
        with self._translated("list", prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + prefix
            )
            for page in pages:
                for item in page.get("Contents", []):
                    yield ObjectInfo(
                        key=item["Key"][len(self.prefix) :],
                        size_bytes=item["Size"],
                        etag=item["ETag"],
                    )

    def list_folders(self, prefix: str) -> Iterator[str]:
        """Names of the "folders" directly under `prefix`, which ends with a slash."""
        with self._translated("list", prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + prefix, Delimiter="/"
            )
            for page in pages:
                for item in page.get("CommonPrefixes", []):
                    yield item["Prefix"][len(self.prefix) + len(prefix) :].rstrip("/")

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; missing ones are no error."""
        batch: list[str] = []
        for key in keys:
            batch.append(key)
            if len(batch) == _DELETE_BATCH:
                self._delete_batch(batch)
                batch = []
        if batch:
            self._delete_batch(batch)

    def _delete_batch(self, keys: list[str]) -> None:
        with self._translated("delete", keys[0]):
            response = self._client.delete_objects(
                Bucket=self.bucket,
                Delete={"Objects": [{"Key": self.prefix + key} for key in keys], "Quiet": True},
            )
        failures = [e for e in response.get("Errors", []) if e.get("Code") not in _NOT_FOUND]
        if failures:
            raise StoreError(
                f"{len(failures)} of {len(keys)} objects could not be deleted from "
                f"{self.endpoint}; first: {failures[0].get('Key')}: {failures[0].get('Code')}"
            )

    @contextmanager
    def _translated(self, action: str, key: str) -> Iterator[None]:
        from boto3.exceptions import S3UploadFailedError
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            raise self._translate(error, action, key) from error
        except S3UploadFailedError as error:
            cause = error.__context__
            if isinstance(cause, ClientError):
                raise self._translate(cause, action, key) from error
            raise StoreUnavailableError(
                f"Could not {action} {self.uri(key)} at {self.endpoint}: {error}"
            ) from error
        except BotoCoreError as error:
            raise self._translate_transport(error, action, key) from error

    def _translate(self, error: Any, action: str, key: str) -> StoreError:
        code = _code(error)
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        place = f"{self.uri(key)} at {self.endpoint}"
        if code in _NOT_FOUND:
            return ObjectNotFoundError(f"Could not {action} {place}: it does not exist")
        if code in _PRECONDITION:
            return PreconditionFailedError(f"Could not {action} {place}: somebody changed it")
        if code in _ACCESS:
            return StoreAccessError(
                f"Could not {action} {place}: {code}",
                hint="Check RAFTLINE_S3_ACCESS_KEY_ID and RAFTLINE_S3_SECRET_ACCESS_KEY, and that "
                f"they may use the bucket {self.bucket!r}.",
            )
        if code in _THROTTLED or status >= 500:
            return StoreUnavailableError(f"Could not {action} {place}: {code}")
        return StoreError(f"Could not {action} {place}: {error}")

    def _translate_transport(self, error: Exception, action: str, key: str) -> StoreError:
        from botocore.exceptions import ConnectionError as EndpointError
        from botocore.exceptions import HTTPClientError, NoCredentialsError, PartialCredentialsError

        place = f"{self.uri(key)} at {self.endpoint}"
        if isinstance(error, NoCredentialsError | PartialCredentialsError):
            return StoreAccessError(
                f"Could not {action} {place}: no credentials",
                hint="Set RAFTLINE_S3_ACCESS_KEY_ID and RAFTLINE_S3_SECRET_ACCESS_KEY, or start "
                "the local stack with 'raftline up'.",
            )
        if isinstance(error, EndpointError | HTTPClientError):
            return StoreUnavailableError(
                f"Could not {action} {place}: {error}",
                hint="Is the service running? 'raftline status' tells for the local stack.",
            )
        return StoreError(f"Could not {action} {place}: {error}")


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _make_client(settings: Settings) -> S3Client:
    import boto3
    from botocore.config import Config

    key, secret = settings.s3_access_key_id, settings.s3_secret_access_key
    # Checksums in trailers, boto3's newer default, are refused by several S3-compatible servers.
    config = Config(
        connect_timeout=5,
        read_timeout=60,
        retries={"mode": "standard", "max_attempts": 5},
        signature_version="s3v4",
        s3={"addressing_style": "path" if settings.s3_endpoint_url else "auto"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        max_pool_connections=2 * MULTIPART_CONCURRENCY + 2,
    )
    # A session of its own: boto3's module-level default session is not thread-safe.
    return boto3.session.Session().client(
        "s3",
        endpoint_url=settings.s3_endpoint_url,
        region_name=settings.s3_region,
        aws_access_key_id=key.get_secret_value() if key else None,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        config=config,
    )
