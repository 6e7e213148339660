"""What the stages' tasks have in common."""

from __future__ import annotations

import logging
import threading

import pytest
from prefect.states import Failed

import tasks.answer
import tasks.evaluate
import tasks.finetune
import tasks.index
import tasks.ingest
import tasks.promote
import tasks.references
import tasks.synthesize
from pipeline_lib.config import IngestConfig
from pipeline_lib.errors import (
    InputError,
    StoreAccessError,
    StoreUnavailableError,
    VectorStoreBusyError,
)
from pipeline_lib.stage import StageResult, Workspace, run_stage
from tasks.progress import use_progress
from tasks.runtime import _library_log_in, retry_if_transient

ALL_TASKS = [
    tasks.ingest.ingest,
    tasks.index.index,
    tasks.synthesize.synthesize,
    tasks.finetune.finetune,
    tasks.evaluate.choose_baseline,
    tasks.evaluate.evaluate,
    tasks.promote.promote,
    tasks.answer.answer,
    tasks.references.resolve,
]


@pytest.mark.parametrize("task", ALL_TASKS, ids=lambda task: task.name)
def test_tasks_retry_with_growing_delays_and_never_pickle(task: object) -> None:
    assert task.retries == 3  # type: ignore[attr-defined]
    assert task.retry_delay_seconds == [2, 4, 8]  # type: ignore[attr-defined]
    assert task.retry_jitter_factor == 0.5  # type: ignore[attr-defined]
    assert task.retry_condition_fn is retry_if_transient  # type: ignore[attr-defined]
    assert task.persist_result is False  # type: ignore[attr-defined]
    assert task.result_serializer == "json"  # type: ignore[attr-defined]
    assert task.description  # type: ignore[attr-defined]


def test_training_is_tagged_for_the_gpu() -> None:
    assert tasks.finetune.finetune.tags == {"gpu"}


@pytest.mark.parametrize(
    ("error", "is_retried"),
    [
        (StoreUnavailableError("503"), True),
        (VectorStoreBusyError("locked"), True),
        (StoreAccessError("403"), False),
        (InputError("no such folder"), False),
        (ValueError("a bug"), False),
    ],
)
def test_only_transient_errors_are_tried_again(error: Exception, is_retried: bool) -> None:
    assert retry_if_transient(None, None, Failed(data=error)) is is_retried  # type: ignore[arg-type]


def test_a_task_is_one_library_call_that_a_test_can_make_without_a_server(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []

    class Listener:
        def start(self, description: str, total: int | None, unit: str = "items") -> None:
            heard.append(description)

        def advance(self, count: int = 1) -> None: ...

        def note(self, text: str) -> None: ...

        def finish(self) -> None: ...

    def fake_ingest(ws: Workspace, name: str, config: IngestConfig) -> StageResult:
        ws.progress.start("Reading", 1)
        return run_stage(
            ws,
            kind="corpus",
            name=name,
            stage="ingest",
            stage_version=1,
            config=config,
            inputs={},
            build=lambda draft: None,
        )

    monkeypatch.setattr("pipeline_lib.corpus.stage.ingest", fake_ingest)
    with use_progress(Listener()):
        result = tasks.ingest.ingest.fn("docs", IngestConfig())
    assert result.ref == workspace.artifacts.resolve("corpus/docs@latest")
    assert heard == ["Reading"]


def test_the_librarys_log_becomes_the_runs_log_from_any_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    library = logging.getLogger("pipeline_lib")
    before = library.level, library.propagate, list(library.handlers)
    caplog.set_level(logging.DEBUG, logger="the-run")
    with _library_log_in(logging.getLogger("the-run")):
        logging.getLogger("pipeline_lib.stage").info("ingest %s", "built")
        logging.getLogger("pipeline_lib.stage").debug("too much")
        thread = threading.Thread(target=logging.getLogger("pipeline_lib.raft").warning, args=["w"])
        thread.start()
        thread.join()
    logging.getLogger("pipeline_lib.stage").info("afterwards")
    lines = [(r.name, r.levelname, r.getMessage()) for r in caplog.records if r.name == "the-run"]
    assert lines == [("the-run", "INFO", "ingest built"), ("the-run", "WARNING", "w")]
    assert (library.level, library.propagate, library.handlers) == before
