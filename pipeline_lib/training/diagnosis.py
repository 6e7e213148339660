"""Why a training failed: from what its ranks left behind to one sentence and what to do about it.

A rank that fails takes the others along, and those then fail too, with a lost connection. So causes
are weighed: a rank ended by a signal, which can write nothing down, or a machine that is gone,
comes before exceptions, and of exceptions the earliest counts, from whichever machine.
"""

from __future__ import annotations

import errno
import json
import logging
import shutil
import signal
import time
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from pipeline_lib import errors
from pipeline_lib.errors import PreemptedError, RaftlineError, TrainingError
from pipeline_lib.training.plan import LOG_FILE, PREEMPTED_EXIT

logger = logging.getLogger(__name__)

ENDINGS_FILE = "endings.json"

_TAIL_LINES = 30
_RESUMES = "It goes on from its last checkpoint when started again."
_LESS_MEMORY = (
    "Make a smaller finetune.batch.micro_batch_size, set engine.gradient_checkpointing to 'on', "
    "raise engine.zero_stage, or train fewer parameters (method 'lora'). " + _RESUMES
)
_NO_MEMORY_WORDS = ("can't allocate memory", "out of memory", "Cannot allocate memory")


class RankError(BaseModel):
    """What an exception in a rank was."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int
    at: float
    """Seconds since 1970."""
    type: str
    """Name of its class."""
    message: str
    hint: str | None = None
    is_ours: bool = False
    """A `RaftlineError`: its message is meant for users."""
    errno: int | None = None
    path: str | None = None
    """The file that an `OSError` is about."""


class RankEnding(BaseModel):
    """How a rank that failed ended; see `pipeline_lib.training.agent`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int
    pid: int
    exit_code: int
    """Negative: the signal that ended it."""


class NodeReport(BaseModel):
    """What another machine says of its failure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    node: int
    message: str
    """What it makes of it itself."""
    hint: str | None = None
    is_preempted: bool = False
    errors: tuple[RankError, ...] = ()
    endings: tuple[RankEnding, ...] = ()

    @classmethod
    def of(cls, node: int, error: BaseException, run_folder: Path | None = None) -> NodeReport:
        """What a machine has to say that fails of `error`, of its ranks if they have run."""
        own = error if isinstance(error, RaftlineError) else None
        return cls(
            node=node,
            message=own.message if own else f"{type(error).__name__}: {error}",
            hint=own.hint if own else None,
            is_preempted=isinstance(error, PreemptedError),
            errors=tuple(recorded_errors(run_folder)) if run_folder else (),
            endings=tuple(recorded_endings(run_folder)) if run_folder else (),
        )


def record_error(run_folder: Path, rank: int, error: Exception) -> None:
    """Write down the exception that ends this rank."""
    is_ours = isinstance(error, RaftlineError)
    record = RankError(
        rank=rank,
        at=time.time(),
        type=type(error).__name__,
        message=error.message if isinstance(error, RaftlineError) else str(error),
        hint=error.hint if isinstance(error, RaftlineError) else None,
        is_ours=is_ours,
        errno=error.errno if isinstance(error, OSError) else None,
        path=str(error.filename) if isinstance(error, OSError) and error.filename else None,
    )
    try:
        (run_folder / f"error-{rank}.json").write_text(record.model_dump_json())
    except OSError:  # the disk may be what is wrong; the log has the traceback then
        logger.exception("The error could not be written down")


def recorded_errors(run_folder: Path) -> list[RankError]:
    """What the ranks wrote down, the earliest first."""
    found = []
    for path in run_folder.glob("error-*.json"):
        content = path.read_text()
        if content:  # none, where the disk was full
            found.append(RankError.model_validate_json(content))
    return sorted(found, key=lambda record: record.at)


def recorded_endings(run_folder: Path) -> list[RankEnding]:
    """The ranks that failed, the first one first; none where there was no torchrun to tell."""
    path = run_folder / ENDINGS_FILE
    if not path.exists():
        return []
    return TypeAdapter(list[RankEnding]).validate_python(json.loads(path.read_text()))


def oom_kills() -> int | None:
    """How many processes the kernel has ended for lack of memory since it started; Linux only."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return None
    counts = dict(line.split() for line in lines)
    return int(counts["oom_kill"]) if "oom_kill" in counts else None


@dataclass(frozen=True, kw_only=True)
class Ending:
    """All there is to judge a failed training by."""

    run_folder: Path
    returncode: int
    """Of the process that was started here, torchrun or the only rank; 0 where we ended it."""
    oom_kills_before: int | None = None
    """`oom_kills()` when it was started."""
    elsewhere: Sequence[NodeReport] = field(default_factory=tuple)
    """What other machines said."""
    lost: Sequence[int] = field(default_factory=tuple)
    """Numbers of machines that are gone without a word."""

    def diagnose(self) -> TrainingError:
        """The error to raise, with the end of the log where that says more than we know."""
        records = recorded_errors(self.run_folder)
        records += [error for report in self.elsewhere for error in report.errors]
        records.sort(key=lambda record: record.at)
        endings = recorded_endings(self.run_folder)
        told = next((record for record in records if record.is_ours), None)
        if told is not None:
            return _own_error(told)
        codes = [ending.exit_code for ending in endings] or [self.returncode]
        if PREEMPTED_EXIT in codes or any(report.is_preempted for report in self.elsewhere):
            return PreemptedError("The training was told to end (SIGTERM)", hint=_RESUMES)
        killed = self._killed(endings, is_told=bool(records or self.lost))
        if killed is not None:
            return killed
        if self.lost:
            return self._gone()
        if records:
            return self._failed(records[0])
        if self.elsewhere:
            return _as_told(self.elsewhere[0])
        if self.returncode > 0:
            return self._error(f"The training processes ended with exit code {self.returncode}")
        return self._error(f"The training processes ended with {_signal_name(-self.returncode)}")

    def _killed(self, endings: Sequence[RankEnding], *, is_told: bool) -> TrainingError | None:
        """A rank that a signal ended, which took the others along.

        Not SIGTERM, with which torchrun ends the others; nor, where there is an exception to tell
        of, SIGABRT, with which NCCL ends a rank whose peers are gone.
        """
        consequences = {signal.SIGTERM, signal.SIGABRT} if is_told else {signal.SIGTERM}
        signals = [
            (f"Rank {ending.rank} (process {ending.pid})", -ending.exit_code)
            for ending in _signalled(endings, consequences)
        ]
        if not endings and self.returncode < 0:
            signals = [("The training process", -self.returncode)]
        if not signals:
            for report in self.elsewhere:
                if _signalled(report.endings, consequences):
                    return _as_told(report)
            return None
        who, number = signals[0]
        message = f"{who} was ended by {_signal_name(number)}"
        if number != signal.SIGKILL:
            return self._error(message)
        before, now = self.oom_kills_before, oom_kills()
        if before is not None and now is not None and now > before:
            return self._error(
                f"{message}: the machine ran out of memory, and the kernel chose it", _LESS_MEMORY
            )
        return self._error(
            message,
            "Most often that is a lack of memory, which then is in the machine's own log "
            f"(dmesg), or a limit of its container. {_RESUMES}",
        )

    def _gone(self) -> TrainingError:
        return self._error(
            f"No sign of life comes from node {', '.join(map(str, self.lost))} any more",
            f"See whether that machine runs, and `raftline join` on it. {_RESUMES}",
        )

    def _failed(self, record: RankError) -> TrainingError:
        if record.errno == errno.ENOSPC or "No space left on device" in record.message:
            return self._disk_full(record)
        message = f"Rank {record.rank} failed with {record.type}: {record.message}"
        words = record.message.lower()
        lacks_memory = record.type in ("OutOfMemoryError", "MemoryError") or any(
            each.lower() in words for each in _NO_MEMORY_WORDS
        )
        return self._error(message, _LESS_MEMORY if lacks_memory else _RESUMES)

    def _disk_full(self, record: RankError) -> TrainingError:
        folder = Path(record.path).parent if record.path else self.run_folder
        place = folder if folder.exists() else self.run_folder
        free = shutil.disk_usage(place).free
        return TrainingError(
            f"The disk of {folder} is full ({free:,} bytes are free): rank {record.rank} could not "
            f"write {record.path or 'a checkpoint'}",
            hint="Free some space, or point RAFTLINE_HOME at a larger disk: a checkpoint lies "
            f"there until it is stored. {_RESUMES}",
        )

    def _error(self, message: str, hint: str = _RESUMES) -> TrainingError:
        tail = "\n".join(log_tail(self.run_folder / LOG_FILE))
        return TrainingError(f"{message}. The end of the log:\n{tail}", hint=hint)


def log_tail(path: Path) -> list[str]:
    """The last lines of a log that hold something."""
    if not path.exists():
        return []
    lines = path.read_text(errors="replace").splitlines()
    return [line for line in lines if line.strip()][-_TAIL_LINES:]


def _own_error(record: RankError) -> TrainingError:
    """The error as the rank raised it, where it is one of training."""
    kind = getattr(errors, record.type, TrainingError)
    is_of_training = isinstance(kind, type) and issubclass(kind, TrainingError)
    error_type = kind if is_of_training else TrainingError
    return error_type(record.message, hint=record.hint)


def _as_told(report: NodeReport) -> TrainingError:
    """The failure of another machine, in its own words."""
    return TrainingError(f"Node {report.node}: {report.message}", hint=report.hint)


def _signalled(
    endings: Iterable[RankEnding], consequences: Container[signal.Signals]
) -> list[RankEnding]:
    """The ranks that signals ended, other than those that follow from another rank's end."""
    return [
        ending
        for ending in endings
        if ending.exit_code < 0 and -ending.exit_code not in consequences
    ]


def _signal_name(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"
