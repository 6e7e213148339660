"""The error tree of Raftline.

Every error a user can meet is a `RaftlineError`: one sentence that says what was wrong and where,
and a `hint` that says what to do next. `is_transient` tells an orchestrator whether trying again
can help; bad input never is.

    RaftlineError
    ├── ConfigError                 a setting or parameter is wrong
    ├── InputError                  the user's data is wrong
    │   └── TooManyDropsError       more inputs were dropped than the configuration allows
    ├── ModelNotFoundError          a model name leads nowhere, or its files are not what was pinned
    ├── StoreError                  S3 refused or failed
    │   ├── StoreUnavailableError   (transient) connection, timeout, 5xx, throttling
    │   ├── StoreAccessError        credentials or permissions
    │   ├── ObjectNotFoundError     no object under that key
    │   └── PreconditionFailedError a conditional write lost against another writer
    ├── ArtifactError
    │   ├── ArtifactNotFoundError   no complete artifact under that reference
    │   ├── ArtifactCorruptError    content does not match the manifest
    │   └── AliasConflictError      an alias was moved by somebody else in between
    ├── VectorStoreError            Qdrant refused or failed
    │   ├── VectorStoreUnavailableError  (transient)
    │   └── VectorStoreBusyError    (transient) local mode is locked by another process
    ├── GenerationError             a text generator failed
    │   └── GenerationUnavailableError   (transient) endpoint down, throttled or timed out
    ├── YieldError                  synthesis kept too few rows to go on
    ├── TrainingError               the trainer failed; carries the tail of its log
    │   ├── RewardError             rewards cannot tell good answers from bad; nothing was trained
    │   ├── NonFiniteLossError      the loss became NaN or infinite; no update was made
    │   ├── HungTrainingError       no rank gave a sign of life for too long
    │   ├── PreemptedError          (transient) the run was told to end, and can be resumed
    │   └── ExportError             trained weights could not be made into what others load
    └── StackError                  the local stack could not be started or stopped
"""

from __future__ import annotations


class RaftlineError(Exception):
    """Base of all errors meant for users.

    Args:
        message: what was wrong and where, in one sentence.
        hint: what to do next; shown on its own line.
    """

    is_transient: bool = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class ConfigError(RaftlineError):
    """A setting or a parameter is missing, unknown or out of range."""


class InputError(RaftlineError):
    """The user's data cannot be used as it is."""


class TooManyDropsError(InputError):
    """More inputs were dropped than `max_dropped_fraction` allows."""


class ModelNotFoundError(RaftlineError):
    """A model reference does not resolve, or the files found are not the pinned ones."""


class StoreError(RaftlineError):
    """The object store refused or failed a request."""


class StoreUnavailableError(StoreError):
    """The object store could not be reached, timed out, throttled or answered 5xx."""

    is_transient = True


class StoreAccessError(StoreError):
    """The object store rejected the credentials or the permission."""


class ObjectNotFoundError(StoreError):
    """There is no object under the requested key."""


class PreconditionFailedError(StoreError):
    """A conditional write (`If-Match`, `If-None-Match`) lost against another writer."""


class ArtifactError(RaftlineError):
    """An artifact cannot be used."""


class ArtifactNotFoundError(ArtifactError):
    """No complete artifact (one with a manifest) exists under the reference."""


class ArtifactCorruptError(ArtifactError):
    """A file's size or SHA-256 differs from the manifest, or the manifest cannot be read."""


class AliasConflictError(ArtifactError):
    """An alias changed between reading and writing it."""


class VectorStoreError(RaftlineError):
    """Qdrant refused or failed a request."""


class VectorStoreUnavailableError(VectorStoreError):
    """Qdrant could not be reached, timed out or answered 429/5xx."""

    is_transient = True


class VectorStoreBusyError(VectorStoreError):
    """The local-mode folder stayed locked by another process."""

    is_transient = True


class GenerationError(RaftlineError):
    """A text generator failed for a reason that trying again will not change."""


class GenerationUnavailableError(GenerationError):
    """A generation endpoint was unreachable, throttled or timed out."""

    is_transient = True


class YieldError(RaftlineError):
    """Synthesis kept fewer rows than the configuration needs."""


class TrainingError(RaftlineError):
    """The training process group failed; the message carries the tail of its log."""


class RewardError(TrainingError):
    """Rewards cannot tell references from answers that are known to be bad; nothing was trained."""


class NonFiniteLossError(TrainingError):
    """The loss became NaN or infinite; the run stopped before the update."""


class HungTrainingError(TrainingError):
    """No rank gave a sign of life for longer than `launch.hang_seconds`."""


class PreemptedError(TrainingError):
    """The training was told to end (SIGTERM); it goes on from its last checkpoint."""

    is_transient = True


class ExportError(TrainingError):
    """Trained weights could not be made into a model that others load."""


class StackError(RaftlineError):
    """The local stack could not be started, reached or stopped."""
