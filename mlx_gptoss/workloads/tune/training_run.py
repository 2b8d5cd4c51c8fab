"""The loop of a run: steps, evaluations, saving, early stopping, going on.

Runs in the thread that owns the model. What is written where is its caller's.
"""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_gptoss.errors import NonFiniteError
from mlx_gptoss.workloads.tune.options import TuneOptions
from mlx_gptoss.workloads.tune.run_log import RunLog, read_log
from mlx_gptoss.workloads.tune.saved_state import RunState, SavedTraining, save_state
from mlx_gptoss.workloads.tune.schedule import default_warmup, learning_rate
from mlx_gptoss.workloads.tune.steps import (
    RepeatableBatches,
    StepBatches,
    steps_from,
    steps_in,
)
from mlx_gptoss.workloads.tune.trainer import OptimizerStep, Trainer

EVALUATIONS = 10  # of a run that names no interval
FINISHED, PATIENCE, INTERRUPTED = "finished", "patience", "interrupted"


@dataclass(frozen=True)
class TuneProgress:
    """Figures after a step; `tokens_per_second` counts computed tokens."""

    step: int
    steps: int
    loss: float
    validation_loss: float | None
    tokens_per_second: float
    memory_bytes: int
    seconds_left: float


@dataclass(frozen=True)
class TuneOutcome:
    """How a run ended, and the adapter it keeps.

    reason: `finished`, `patience` or `interrupted`. kept_step: of the adapter that is
    kept, None if there is none. loss: its validation loss, None without validation
    data. before: that of the model without it.
    """

    reason: str
    step: int
    steps: int
    kept_step: int | None
    loss: float | None
    before: float | None


@dataclass(eq=False)
class TrainingRun:
    """One run in a folder.

    keep: writes the adapter as it is where the user finds it; called when it is the
        best so far, or at each save if there is no validation data.
    validation: batches that are not learned, to choose the best adapter.
    before: their loss without an adapter, once known.
    stop: ends the run after the current step.
    """

    folder: Path
    options: TuneOptions
    data: RepeatableBatches
    trainer: Trainer
    state: RunState
    keep: Callable[[RunState], None]
    validation: RepeatableBatches | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    report: Callable[[TuneProgress], None] = lambda _: None
    before: float | None = None
    _validation_loss: float | None = None

    @cached_property
    def steps(self) -> int:
        """Steps of the whole run."""
        options = self.options
        return options.steps or steps_in(self.data, options.epochs, options.accumulate)

    def run(self) -> TuneOutcome:
        """Train until the steps are done, patience ends, or `stop` is set.

        Raises NonFiniteError if loss or gradient is not finite; what was saved stays.
        """
        with RunLog(self.folder, self.state.log_lines) as log:
            if self.state.step == 0:
                self._begin(log)
            elif self.validation is not None:
                self.before = read_log(self.folder)[0]["validation_loss"]
            reason = self._train(log)
            return self._end(log, reason)

    def _begin(self, log: RunLog) -> None:
        """Evaluate the model as it is: the updates change nothing yet."""
        if self.validation is not None:
            self.before = self._validation_loss = self._validate()
            log.add({"step": 0, "validation_loss": self.before})

    def _train(self, log: RunLog) -> str:
        position, accumulate = self.state.position, self.options.accumulate
        data = steps_from(self.data, position, accumulate)
        began, first = time.monotonic(), self.state.step
        while (reason := self._reason_to_end()) is None:
            result, seconds = self._step(next(data), log)
            done, last = self.state.step, self.state.step == self.steps
            if self.validation is not None and (last or done % self._interval == 0):
                self._evaluate(log)
            if last or done % (self.options.save_every or self._interval) == 0:
                self._save(log)
            spent = (time.monotonic() - began) / (done - first)
            self.report(
                TuneProgress(
                    step=done,
                    steps=self.steps,
                    loss=result.loss,
                    validation_loss=self._validation_loss,
                    tokens_per_second=result.tokens / seconds,
                    memory_bytes=mx.get_peak_memory(),
                    seconds_left=spent * (self.steps - done),
                )
            )
        return reason

    def _reason_to_end(self) -> str | None:
        patience = self.options.patience
        if patience is not None and self.state.evaluations_without_gain >= patience:
            return PATIENCE
        if self.state.step >= self.steps:
            return FINISHED
        return INTERRUPTED if self.stop.is_set() else None

    def _validate(self) -> float:
        assert self.validation is not None
        batches = range(self.validation.count())
        loss = self.trainer.evaluate(
            self.validation.batch(0, index).packed() for index in batches
        )
        if not math.isfinite(loss):
            raise NonFiniteError(
                f"the validation loss after step {self.state.step} is not finite; "
                f"{self._kept()}: use a lower `--learning-rate`"
            )
        return loss

    def _step(self, data: StepBatches, log: RunLog) -> tuple[OptimizerStep, float]:
        rate = self._learning_rate(self.state.step)
        began = time.monotonic()
        result = self.trainer.step(data.batches, rate)
        seconds = time.monotonic() - began
        if not result.finite:
            raise NonFiniteError(self._explain(result, rate))
        self.state = self.state.after(
            step=self.state.step + 1,
            position=data.following,
            seconds=self.state.seconds + seconds,
            learned_tokens=self.state.learned_tokens + result.learned,
        )
        log.add(
            {
                "step": self.state.step,
                "loss": result.loss,
                "learning_rate": rate,
                "gradient_norm": result.gradient_norm,
                "tokens": result.tokens,
                "learned_tokens": result.learned,
                "seconds": round(seconds, 4),
                "peak_memory_bytes": mx.get_peak_memory(),
            }
        )
        return result, seconds

    def _evaluate(self, log: RunLog) -> None:
        loss = self._validation_loss = self._validate()
        best = self.state.best_loss is None or loss < self.state.best_loss
        if best:
            self._keep(best_loss=loss, evaluations_without_gain=0)
        else:
            without = self.state.evaluations_without_gain + 1
            self.state = self.state.after(evaluations_without_gain=without)
        log.add({"step": self.state.step, "validation_loss": loss, "best": best})

    def _keep(self, **changes: Any) -> None:
        """Keep the adapter as it is now."""
        self.state = self.state.after(kept_step=self.state.step, **changes)
        self.keep(self.state)

    def _save(self, log: RunLog) -> None:
        """Save the state; without validation data also the adapter."""
        if self.validation is None:
            self._keep()
        log.sync()
        self.state = self.state.after(log_lines=log.lines)
        trainer = self.trainer
        saved = SavedTraining(self.state, trainer.trained, trainer.optimizer_state)
        save_state(self.folder, saved)

    def _end(self, log: RunLog, reason: str) -> TuneOutcome:
        if reason != FINISHED and self.state.step:
            if self.state.kept_step is None:  # not yet evaluated
                self._keep()
            self._save(log)
        return TuneOutcome(
            reason=reason,
            step=self.state.step,
            steps=self.steps,
            kept_step=self.state.kept_step,
            loss=self.state.best_loss,
            before=self.before,
        )

    @property
    def _interval(self) -> int:
        """Steps between evaluations."""
        return self.options.evaluate_every or max(1, self.steps // EVALUATIONS)

    def _learning_rate(self, step: int) -> float:
        options, steps = self.options, self.steps
        warmup = default_warmup(steps) if options.warmup is None else options.warmup
        return learning_rate(
            step,
            steps,
            peak=options.learning_rate,
            warmup=warmup,
            final=options.final_rate,
        )

    def _explain(self, result: OptimizerStep, rate: float) -> str:
        name = "gradient" if math.isfinite(result.loss) else "loss"
        return (
            f"the {name} of step {self.state.step + 1} is not finite (learning rate "
            f"{rate:.3g}); {self._kept()}: use a lower `--learning-rate`, or look for "
            "damaged examples"
        )

    def _kept(self) -> str:
        step = self.state.kept_step
        if step is None:
            return "no adapter was kept"
        best = (
            "the best adapter, of" if self.validation is not None else "the adapter of"
        )
        return f"{best} step {step}, is kept in `{self.folder}`"
