"""Objects in a bucket as sources: `s3://bucket/prefix`, also with wildcards."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline_lib.artifacts.object_store import ObjectInfo, ObjectStore
from pipeline_lib.corpus.drops import DropReason, make_drop
from pipeline_lib.corpus.schema import Drop
from pipeline_lib.corpus.sources.names import hidden_part, matches
from pipeline_lib.errors import InputError, ObjectNotFoundError, StoreAccessError
from pipeline_lib.settings import Settings

_ADDRESS = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(/(?P<prefix>.*))?", re.S)


@dataclass(frozen=True)
class FoundObject:
    """An object that may be an input."""

    uri: str
    bucket: str
    key: str
    etag: str
    size_bytes: int


class SourceBuckets:
    """The object stores that sources are read from, one per bucket."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stores: dict[str, ObjectStore] = {}

    def store(self, bucket: str) -> ObjectStore:
        """The objects of one bucket."""
        if bucket not in self._stores:
            self._stores[bucket] = ObjectStore(self._settings.for_source_bucket(bucket))
        return self._stores[bucket]

    def listed(self, source: str) -> list[FoundObject | Drop]:
        """The objects under `s3://bucket/prefix`, in order of key.

        A prefix ends at a slash: `s3://b/docs` is the object `docs` and what lies under `docs/`.
        With `*` it is a pattern, as in local globs.

        Raises:
            InputError: the address is no S3 address, the bucket is missing, or nothing is there.
            StoreAccessError: the credentials may not list it.
        """
        bucket, prefix = _parse(source)
        wanted = prefix.split("/") if "*" in prefix else None
        start = prefix.partition("*")[0]
        found: list[FoundObject | Drop] = []
        hidden: set[str] = set()
        with access_explained(source):
            for info in self.store(bucket).scan(start):
                if info.key.endswith("/") or not _is_under(info.key, prefix, wanted):
                    continue
                found.extend(_entry(bucket, info, _depth_of(prefix, wanted), hidden))
        if not found:
            raise InputError(
                f"There are no objects under the source {source!r}",
                hint="A prefix ends at a slash: 'docs' is the object 'docs' or what is in 'docs/'.",
            )
        return found


@contextmanager
def access_explained(place: str) -> Iterator[None]:
    """Errors of the store, said of a source.

    Raises:
        InputError: the bucket or the object does not exist.
        StoreAccessError: the credentials do not suffice.
    """
    try:
        yield
    except ObjectNotFoundError as error:
        raise InputError(
            f"The source {place!r} does not exist: {error.message}",
            hint="Check the bucket's name and RAFTLINE_SOURCE_S3_ENDPOINT_URL.",
        ) from error
    except StoreAccessError as error:
        raise StoreAccessError(
            error.message,
            hint="Check RAFTLINE_SOURCE_S3_ACCESS_KEY_ID and RAFTLINE_SOURCE_S3_SECRET_ACCESS_KEY; "
            "without them the artifact store's credentials are used.",
        ) from error


def _parse(source: str) -> tuple[str, str]:
    address = _ADDRESS.fullmatch(source)
    if address is None:
        raise InputError(
            f"The source {source!r} is not an S3 address", hint="Write s3://bucket/prefix."
        )
    return address["bucket"], address["prefix"] or ""


def _is_under(key: str, prefix: str, wanted: list[str] | None) -> bool:
    if wanted is not None:
        return matches(key.split("/"), wanted)
    return not prefix or key == prefix or key.startswith(f"{prefix.rstrip('/')}/")


def _depth_of(prefix: str, wanted: list[str] | None) -> int:
    """How many leading parts of a key the source itself names: those may be hidden."""
    if wanted is not None:
        return next(i for i, part in enumerate(wanted) if "*" in part)
    return len(PurePosixPath(prefix).parts)


def _entry(
    bucket: str, info: ObjectInfo, num_named: int, hidden: set[str]
) -> Iterator[FoundObject | Drop]:
    cover = hidden_part(info.key, num_named)
    if cover is None:
        uri = f"s3://{bucket}/{info.key}"
        yield FoundObject(uri, bucket, info.key, info.etag.strip('"'), info.size_bytes)
    elif cover not in hidden:
        hidden.add(cover)
        uri = f"s3://{bucket}/{cover}"
        yield make_drop(uri, DropReason.HIDDEN, "names that begin with a dot are skipped")
