"""The collections of one name: the one in use, those kept for going back, and those to delete.

A change of encoder, chunker or layout gives a collection of another name, filled beside the one in
use. The alias moves to it in one call once it is complete and verified. Each collection notes which
one was in use before it; that chain is the way back.
"""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.artifacts.store import LATEST
from pipeline_lib.errors import VectorStoreError
from pipeline_lib.retrieval.store import CREATED_KEY, VectorStore
from pipeline_lib.stage import Workspace

logger = logging.getLogger(__name__)

ABANDONED_AFTER = timedelta(days=7)
"""A collection that was never completed is deleted after this; until then its run may go on."""
_PREVIOUS = "previous_collection"
_ACTIVATED = "activated_at"
_ARTIFACT = "artifact"


class Rollback(BaseModel):
    """What `rollback_index` did."""

    model_config = ConfigDict(frozen=True)

    name: str
    left: str
    """The collection that was in use."""
    restored: str
    """The collection that is in use now."""
    artifact: ArtifactRef
    """The index artifact that describes it; `index/<name>@latest` from now on."""


def activate(
    store: VectorStore, alias: str, collection: str, artifact: str, *, keep_previous: int
) -> int:
    """Make `alias` lead to a complete collection, and delete those that are too old.

    Args:
        store: an entered store.
        alias: the pipeline's name.
        collection: complete and verified.
        artifact: the index artifact that describes it, for the way back; empty for none.
        keep_previous: how many of the collections that were in use before stay.

    Returns:
        How many collections were deleted.
    """
    current = store.aliases().get(alias)
    notes = {_ARTIFACT: artifact}
    if current != collection:
        notes |= {_PREVIOUS: current or "", _ACTIVATED: _now().isoformat(timespec="seconds")}
    store.set_metadata(collection, notes)
    if current != collection:
        store.point_alias(alias, collection)
    return _delete_old(store, alias, _chain(store, collection, keep_previous))


def rollback_index(ws: Workspace, name: str) -> Rollback:
    """Go back to the collection that was in use before the last switch, and to its index artifact.

    A second call goes forward again. The next index stage with the configuration that was left
    switches forward too: change the configuration along with it.

    Raises:
        VectorStoreError: there is no collection in use, or none to go back to.
    """
    with VectorStore(ws.settings, f"rolling back {name!r}", ws.progress) as store:
        current = store.aliases().get(name)
        if current is None:
            raise VectorStoreError(
                f"No collection is in use for {name!r} in Qdrant at {store.location}",
                hint="Run the index stage first.",
            )
        previous = store.metadata(current).get(_PREVIOUS)
        if not previous or not store.exists(previous):
            raise VectorStoreError(
                f"There is no collection to go back to from {current}",
                hint="One is kept for each change of model, chunking or layout, up to "
                "index.keep_previous. To go back further, run the index stage with the "
                "configuration of then: its vectors are still in the embedding cache.",
            )
        noted = store.metadata(previous).get(_ARTIFACT)
        if not noted:
            raise VectorStoreError(
                f"{previous} does not say which index artifact describes it",
                hint="It was made by an older version of Raftline. Run the index stage with the "
                "configuration of then.",
            )
        artifact = ArtifactRef.parse(noted)
        # The artifact first: ended in between, a second call does the same once more.
        ws.artifacts.set_alias(LATEST, artifact, reason=f"rolled back from {current}")
        store.set_metadata(previous, {_PREVIOUS: current})
        store.point_alias(name, previous)
    return Rollback(name=name, left=current, restored=previous, artifact=artifact)


def _chain(store: VectorStore, collection: str, num_previous: int) -> list[str]:
    """The collection and those that were in use before it, newest first."""
    chain = [collection]
    while len(chain) <= num_previous:
        previous = store.metadata(chain[-1]).get(_PREVIOUS)
        if not previous or previous in chain or not store.exists(previous):
            break
        chain.append(previous)
    return chain


def _delete_old(store: VectorStore, alias: str, keep: list[str]) -> int:
    ours = re.compile(rf"{re.escape(alias)}__[0-9a-f]{{12}}")
    in_use = set(store.aliases().values())
    num_deleted = 0
    for collection in store.collections():
        if not ours.fullmatch(collection) or collection in keep or collection in in_use:
            continue
        if _may_go(store, collection):
            logger.info("Deleting %s: it is neither in use nor kept for going back", collection)
            store.drop(collection)
            num_deleted += 1
    return num_deleted


def _may_go(store: VectorStore, collection: str) -> bool:
    """Whether it was once complete, or its run has been gone for long."""
    mark, _ = store.content_mark(collection)
    created = store.metadata(collection).get(CREATED_KEY)
    if mark or not created:
        return True
    return _now() - datetime.fromisoformat(created) > ABANDONED_AFTER


def _now() -> datetime:
    return datetime.now(UTC)
