"""Measuring while training: when, by what, and what follows from it.

Every validation goes into the Trainer's log, and what follows is decided from that log; see
`standing`.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from transformers import TrainerCallback

from pipeline_lib.training.plan import append_event
from pipeline_lib.training.questions import QUESTIONS, AnswerCheck
from pipeline_lib.training.reporting import ReportingMixin
from pipeline_lib.training.standing import VALIDATION_PREFIX, Standing, standing


class ValidationMixin(ReportingMixin):
    """The part of the loop that measures; the objective overrides `validate`."""

    best_measure = "loss"
    """Of what `validate` measures, by what validations are compared, unless `best_by` is set."""
    # Of the Trainer:
    state: Any
    control: Any
    callback_handler: Any

    def validate(self) -> dict[str, float]:
        """Measures on the validation rows: `loss` (nats per target token), and what else there is.

        Collective: every rank calls it at the same step, and gets the same numbers.
        """
        raise NotImplementedError

    def log_validation(self) -> dict[str, float]:
        """Validate, and put the result into the log, under names that begin with `eval_`."""
        with self.meter.paused():
            measured = self.validate()
            if self._answers is not None:
                measured |= self._answers.measure(self.model, self.args.device)
            self.log({VALIDATION_PREFIX + name: value for name, value in measured.items()})
        return measured

    def standing(self) -> Standing:
        """Where validation stands."""
        measure = getattr(self.plan.schedule, "best_by", self.best_measure)
        return standing(self.state.log_history, measure)

    @property
    def is_validated(self) -> bool:
        """Whether the weights as they are have been validated."""
        return self.standing().last_step == int(self.state.global_step)

    @property
    def is_best(self) -> bool:
        """Whether the weights as they are are the best so far."""
        return self.standing().best_step == int(self.state.global_step)

    @property
    def is_out_of_patience(self) -> bool:
        """Whether validation has not improved for as long as the configuration allows."""
        patience = self.plan.schedule.patience
        return patience is not None and self.standing().num_without_improvement >= patience

    def evaluate(self, *_args: Any, **_kwargs: Any) -> dict[str, float]:
        """What the Trainer calls at a step that `ValidationSchedule` chose.

        A new best is saved at once where the best is to be selected: it must be there to be
        exported, wherever checkpoints fall otherwise.
        """
        measured = self.log_validation()
        metrics = {VALIDATION_PREFIX + name: value for name, value in measured.items()}
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        if self.plan.schedule.select_best and self.is_best:
            self.control.should_save = True
        if self.is_out_of_patience:
            self.control.should_training_stop = self.control.should_save = True
        return metrics

    @cached_property
    def _answers(self) -> AnswerCheck | None:
        path = self.plan.files.get(QUESTIONS)
        return None if path is None else AnswerCheck.load(path, self.plan.base_model_path)


class ValidationSchedule(TrainerCallback):  # type: ignore[misc]
    """Decides when to validate: at the start, then every so often, and at the end."""

    def __init__(self, trainer: ValidationMixin) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The untrained model, unless the run is resumed, when its log has that entry already.

        Not before `train`: only there does ZeRO-3 wrap the model whose weights it has partitioned.
        """
        if state.global_step == 0:
            self._trainer.log_validation()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Where the configuration says so, else wherever a checkpoint will be saved."""
        every = self._trainer.plan.schedule.validate_every_steps
        is_due = control.should_save if every is None else state.global_step % every == 0
        control.should_evaluate = is_due or state.global_step >= state.max_steps

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell which step's weights are exported, where these are not simply the last."""
        plan, best_step = self._trainer.plan, self._trainer.standing().best_step
        if plan.schedule.select_best and state.is_world_process_zero:
            append_event(plan.events_path, "best", step=best_step)
