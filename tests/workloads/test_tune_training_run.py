"""A run: what it logs, keeps and saves, how it ends, and how it goes on."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss.errors import CheckpointError, NonFiniteError
from mlx_gptoss.workloads.tune.options import TuneOptions
from mlx_gptoss.workloads.tune.run_log import LOG_FILE, read_log
from mlx_gptoss.workloads.tune.saved_state import STATE_FILE, read_state
from mlx_gptoss.workloads.tune.training_run import TuneProgress
from tests.support.tuning import ListedBatches, document, training_run

OPTIONS = TuneOptions(rank=2, steps=12, learning_rate=0.01, evaluate_every=4)


def kept(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "kept.npz") as found:
        return dict(found)


def assert_same_bytes(one: Path, two: Path) -> None:
    """Compare all that a run leaves, but times and memory."""
    mine, theirs = kept(one), kept(two)
    assert mine.keys() == theirs.keys()
    for name, values in mine.items():
        assert values.tobytes() == theirs[name].tobytes(), name
    states = read_state(one), read_state(two)
    for group in ("trained", "optimizer"):
        first, second = (getattr(state, group) for state in states)
        assert first.keys() == second.keys()
        assert all(mx.array_equal(x, second[name]).item() for name, x in first.items())
    assert losses(one) == losses(two)


def losses(folder: Path) -> list[tuple[object, ...]]:
    names = ("step", "loss", "validation_loss", "learning_rate", "best")
    return [tuple(line.get(name) for name in names) for line in read_log(folder)]


def test_it_logs_every_step_and_evaluation(tmp_path: Path) -> None:
    seen: list[TuneProgress] = []
    outcome = training_run(tmp_path, OPTIONS, report=seen.append).run()

    log = read_log(tmp_path)
    assert [line["step"] for line in log if "loss" in line] == list(range(1, 13))
    assert [line["step"] for line in log if "validation_loss" in line] == [0, 4, 8, 12]
    assert log[0]["validation_loss"] == outcome.before
    assert log[1]["learned_tokens"] == 12 and log[1]["tokens"] == 21
    assert [each.step for each in seen] == list(range(1, 13))
    assert seen[-1].seconds_left == 0 and seen[-1].tokens_per_second > 0
    assert (outcome.reason, outcome.step, outcome.steps) == ("finished", 12, 12)


def test_it_keeps_the_adapter_of_the_lowest_validation_loss(tmp_path: Path) -> None:
    outcome = training_run(tmp_path, OPTIONS).run()
    found = {
        line["step"]: line["validation_loss"]
        for line in read_log(tmp_path)
        if "best" in line
    }
    assert outcome.kept_step == min(found, key=found.__getitem__)
    assert outcome.loss == min(found.values())
    assert kept(tmp_path)["step"] == outcome.kept_step


def test_without_validation_it_keeps_the_last(tmp_path: Path) -> None:
    outcome = training_run(tmp_path, OPTIONS, validation=None).run()
    assert (outcome.kept_step, outcome.loss, outcome.before) == (12, None, None)
    assert kept(tmp_path)["step"] == 12


@pytest.mark.parametrize(("stopped_at", "dropout"), [(1, 0), (4, 0.2), (7, 0)])
def test_a_run_that_goes_on_leaves_the_same_bytes(
    tmp_path: Path, stopped_at: int, dropout: float
) -> None:
    options = replace(OPTIONS, dropout=dropout)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    training_run(whole, options).run()
    stop = threading.Event()

    def report(progress: TuneProgress) -> None:
        if progress.step == stopped_at:
            stop.set()

    outcome = training_run(parts, options, stop=stop, report=report).run()
    assert (outcome.reason, outcome.step) == ("interrupted", stopped_at)
    assert kept(parts)["step"] == (4 if stopped_at >= 4 else stopped_at)
    training_run(parts, options).run()
    assert_same_bytes(whole, parts)


def test_a_killed_run_loses_no_more_than_the_steps_since_the_last_save(
    tmp_path: Path,
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    command = [sys.executable, "-m", "tests.support.tuning"]
    with subprocess.Popen(
        [*command, str(killed), "400", "3"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        done: list[int] = []
        for line in process.stdout:  # what was printed when it died, too
            done.append(int(line))
            if done[-1] == 8:
                os.kill(process.pid, signal.SIGKILL)
    state = read_state(killed)
    assert state is not None
    assert max(done) - 3 <= state.state.step <= max(done) + 1
    for folder in (killed, whole):  # the same schedule, in this process
        options = TuneOptions(rank=2, steps=400, save_every=3, learning_rate=0.01)
        end = threading.Event()

        def report(progress: TuneProgress, end: threading.Event = end) -> None:
            if progress.step == max(done) + 4:
                end.set()

        training_run(folder, options, stop=end, report=report).run()
    assert_same_bytes(whole, killed)


def test_patience_ends_a_run_that_gets_no_better(tmp_path: Path) -> None:
    options = TuneOptions(
        rank=2, steps=60, learning_rate=1.0, evaluate_every=1, patience=3
    )
    outcome = training_run(tmp_path, options).run()
    assert outcome.reason == "patience"
    assert outcome.kept_step is not None
    assert outcome.step == outcome.kept_step + 3
    assert training_run(tmp_path, options).run().step == outcome.step


def test_a_loss_that_is_not_finite_stops_with_one_line(tmp_path: Path) -> None:
    run = training_run(tmp_path, OPTIONS)

    def report(progress: TuneProgress) -> None:
        if progress.step == 5:
            pair = next(iter(run.trainer.updates.updates.values()))
            pair["b"] = mx.full(pair["b"].shape, mx.nan)

    run.report = report
    with pytest.raises(NonFiniteError) as caught:
        run.run()
    assert str(caught.value) == (
        "the loss of step 6 is not finite (learning rate "
        f"{run._learning_rate(5):.3g}); the best adapter, of step 4, is kept in "
        f"`{tmp_path}`: use a lower `--learning-rate`, or look for damaged examples"
    )
    assert kept(tmp_path)["step"] == 4
    state = read_state(tmp_path)
    assert state is not None and state.state.step == 4


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    options = TuneOptions(rank=2, steps=3, accumulate=2, epochs=1)
    training_run(tmp_path, options).run()
    steps = [line for line in read_log(tmp_path) if "loss" in line]
    assert [line["tokens"] for line in steps] == [42, 42, 42]
    state = read_state(tmp_path)
    assert state is not None and state.state.position == (1, 1)  # six batches of five


def test_epochs_give_the_number_of_steps(tmp_path: Path) -> None:
    options = TuneOptions(rank=2, epochs=3, accumulate=2)
    assert training_run(tmp_path, options).steps == 8  # 15 batches in twos


def test_a_state_that_is_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / STATE_FILE).write_bytes(b"not tensors at all")
    with pytest.raises(CheckpointError, match="is not the state of a run"):
        read_state(tmp_path)


def test_the_log_forgets_what_the_state_does_not_know(tmp_path: Path) -> None:
    training_run(tmp_path, OPTIONS).run()
    with (tmp_path / LOG_FILE).open("a") as log:
        log.write(json.dumps({"step": 13, "loss": 1.0}) + '\n{"step": 14, "lo')
    training_run(tmp_path, OPTIONS).run()
    assert read_log(tmp_path)[-1]["step"] == 12


def test_a_document_without_learned_tokens_is_no_division_by_zero(
    tmp_path: Path,
) -> None:
    plain = document(6, 1)
    nothing = type(plain)(plain.ids, np.zeros(6, bool))
    data = ListedBatches([[nothing], [document(9, 2)]])
    options = TuneOptions(rank=2, steps=1, accumulate=2)
    training_run(tmp_path, options, data=data).run()
    assert math.isfinite(read_log(tmp_path)[-1].get("loss", 0.0))
