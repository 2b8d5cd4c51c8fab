"""Train an adapter of a loaded model, as prepared.

    prepared = prepare(request, read_corpus(data, tokenizer, settings))
    with load(request.model, options=prepared.load_options) as runtime:
        outcome = train(prepared, runtime, report=print)

All work on arrays runs in the thread of the runtime. An interrupt (Ctrl-C) ends the run
after the current step; what it keeps is in the outcome.
"""

import threading
from collections.abc import Callable

import mlx.core as mx

from mlx_gptoss.checkpoint.adapters.stored import CHAT_FORMAT, HARMONY
from mlx_gptoss.checkpoint.adapters.write import write_adapter_files
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.model.adapters.trainable import TrainableUpdates
from mlx_gptoss.workloads.tune.card import adapter_card
from mlx_gptoss.workloads.tune.decoded import decode_model
from mlx_gptoss.workloads.tune.folder import start_folder
from mlx_gptoss.workloads.tune.prepare import PreparedRun
from mlx_gptoss.workloads.tune.saved_state import RunState
from mlx_gptoss.workloads.tune.targets import target_paths
from mlx_gptoss.workloads.tune.trainer import Trainer
from mlx_gptoss.workloads.tune.training_run import (
    TrainingRun,
    TuneOutcome,
    TuneProgress,
)


def train(
    prepared: PreparedRun,
    runtime: Runtime,
    *,
    report: Callable[[TuneProgress], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> TuneOutcome:
    """Run until the steps are done, patience ends, or the caller is interrupted.

    The model is spent afterwards: its experts may be decoded. report: called in the
    runtime's thread after each step.

    Raises NonFiniteError if the loss is not finite, and StorageError if the folder
    cannot be written.
    """
    if prepared.saved is None and not prepared.request.resume:
        start_folder(prepared.request.folder, prepared.record)
    stop = stop or threading.Event()
    outcomes: list[TuneOutcome] = []

    def work() -> None:
        outcomes.append(_train(prepared, runtime, report, stop))

    try:
        runtime.run(work)
    except (KeyboardInterrupt, SystemExit):
        stop.set()
        runtime.run(_after_the_current_step)
        if not outcomes:
            raise
    return outcomes[0]


def _after_the_current_step() -> None:
    """Run behind the training in the same thread: when this has run, it has ended."""


def _train(
    prepared: PreparedRun,
    runtime: Runtime,
    report: Callable[[TuneProgress], None],
    stop: threading.Event,
) -> TuneOutcome:
    options, model = prepared.options, runtime.model
    mx.reset_peak_memory()
    if prepared.plan.load.decoded:
        decode_model(model)
    updates = TrainableUpdates(
        prepared.config,
        dict.fromkeys(target_paths(prepared.config, options), options.rank),
        scale=options.scale,
        seed=options.seed,
        checkpointed=prepared.plan.load.checkpointed,
        dropout=options.dropout,
    )
    if prepared.start is not None:
        updates.start_from(dict(prepared.start.updates()))
    with updates.attached(model):
        trainer = Trainer(
            model,
            updates,
            weight_decay=options.weight_decay,
            clip=options.clip,
            step_bytes=prepared.plan.step_bytes,
        )
        state, saved = RunState(), prepared.saved
        if saved is not None:
            trainer.restore(saved.trained, saved.optimizer)
            state = saved.state
        return TrainingRun(
            folder=prepared.request.folder,
            options=options,
            data=prepared.data,
            trainer=trainer,
            state=state,
            keep=lambda state: _keep(prepared, updates, state),
            validation=prepared.validation,
            stop=stop,
            report=report,
        ).run()


def _keep(prepared: PreparedRun, updates: TrainableUpdates, state: RunState) -> None:
    """Write the adapter as it is now, replacing the one kept so far."""
    write_adapter_files(
        updates.low_rank(),
        prepared.request.folder,
        prepared.config,
        base=prepared.request.model,
        metadata={CHAT_FORMAT: HARMONY} if prepared.record.conversations else None,
        texts={"README.md": adapter_card(prepared.record, state)},
    )
