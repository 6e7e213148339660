"""Opening the teacher that a configuration names."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

from pipeline_lib.config import BudgetConfig, TeacherConfig
from pipeline_lib.generation.base import TextGenerator
from pipeline_lib.generation.completion_store import CompletionStore
from pipeline_lib.generation.endpoint import EndpointGenerator, endpoint_identity
from pipeline_lib.generation.metered import MeteredTeacher
from pipeline_lib.models import resolve_model
from pipeline_lib.stage import Workspace


@dataclass(frozen=True)
class TeacherSource:
    """A teacher that is not opened before it is needed."""

    ws: Workspace
    config: TeacherConfig
    given: TextGenerator | None
    """Used instead of what the configuration names."""
    identity: str

    @classmethod
    def find(cls, ws: Workspace, config: TeacherConfig, given: TextGenerator | None = None) -> Self:
        """Name the teacher without loading a model or asking a server.

        Raises:
            ModelNotFoundError: the local teacher is not there.
        """
        if given is not None:
            identity = given.model_identity
        elif config.kind == "endpoint":
            identity = endpoint_identity(config.model)
        else:
            identity = resolve_model(ws.settings, config.model, ws.progress).identity
        return cls(ws, config, given, identity)

    def open(self, budget: BudgetConfig, opened: ExitStack) -> MeteredTeacher:
        """The teacher with its store, ledger and budget.

        Args:
            budget: where to stop.
            opened: closes the store, and the model or connection if there was need of one.
        """
        ws = self.ws
        store = opened.enter_context(
            CompletionStore(ws.artifacts.objects, ws.settings.completion_cache, self.identity)
        )
        return MeteredTeacher(
            lambda: self._generator(opened),
            self.identity,
            store,
            self.config.prices,
            budget,
            on_progress=lambda step, done, total: ws.progress.note(f"{step}: {done} of {total}"),
        )

    def _generator(self, opened: ExitStack) -> TextGenerator:
        if self.given is not None:
            return self.given
        if self.config.kind == "endpoint":
            return opened.enter_context(EndpointGenerator(self.ws.settings, self.config))
        from pipeline_lib.generation.local import LocalGenerator

        model = resolve_model(self.ws.settings, self.config.model, self.ws.progress)
        self.ws.progress.note(f"loading {model.name}")
        return LocalGenerator(
            model.path, batch_size=self.config.batch_size, identity=model.identity
        )
