"""`bench experts`: loading and streaming of experts, on one checkpoint.

The checkpoint has the shape of the 120b (hidden size 2880, 128 experts), with few
layers and a small vocabulary. Every run is a process of its own; compared runs are
interleaved. Cold means that the files' pages were dropped just before.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.diagnostics.bench.random_checkpoint import (
    CheckpointShape,
    make_config,
    write_config,
)
from mlx_gptoss.diagnostics.doctor import describe_machine
from mlx_gptoss.diagnostics.progress import ReportProgress, ignore_progress
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.files import scratch, temporary_folder

MODULE = "mlx_gptoss.diagnostics.bench.experts_runs"
VOCABULARY = 16384
SHAPE_120B = CheckpointShape(2880, 128, 64, 8, VOCABULARY)
LAYERS = 2
ROUNDS = 3

# Bounds the runs should reach: ratios, microseconds, bytes.
WARM_LOAD, COLD_SHARE, DECODE_SHARE, FILL_SHARE = 2.0, 0.9, 0.9, 0.7
HOST_MICROSECONDS, RSS_GROWTH = 20.0, 2_000_000


@dataclass(frozen=True)
class Aim:
    """A measured figure and its bound."""

    name: str
    value: float
    bound: float
    unit: str
    at_least: bool = True

    @property
    def reached(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound


@dataclass(frozen=True)
class ExpertsBench:
    """All runs, and the aims compared with them."""

    machine: str
    load_average: float
    model: str
    runs: dict[str, Any]
    aims: tuple[Aim, ...]

    def as_json(self) -> dict[str, Any]:
        aims = [asdict(aim) | {"reached": aim.reached} for aim in self.aims]
        return asdict(self) | {"aims": aims}


def bench_experts(
    folder: Path | None = None,
    *,
    shape: CheckpointShape = SHAPE_120B,
    layers: int = LAYERS,
    rounds: int = ROUNDS,
    stock: bool = True,
    progress: ReportProgress = ignore_progress,
) -> ExpertsBench:
    """Measure a checkpoint, or a random one that is deleted afterwards."""
    load_average = os.getloadavg()[0]
    with checkpoint_to_measure(folder, shape, layers, progress) as model:
        runs = measure(model, rounds=rounds, stock=stock, progress=progress)
    sizes = f"hidden size {shape.hidden_size}, {shape.num_local_experts} experts"
    named = str(folder) if folder else f"{layers} random layers, {sizes}"
    return ExpertsBench(
        describe_machine(), load_average, named, runs, compare_with_aims(runs)
    )


@contextmanager
def checkpoint_to_measure(
    folder: Path | None, shape: CheckpointShape, layers: int, progress: ReportProgress
) -> Iterator[Path]:
    """Yield the checkpoint to measure; without a folder, a random one."""
    if folder is not None:
        yield folder
        return
    with scratch(temporary_folder()) as inside:
        progress("writing a random checkpoint")
        yield write_config(inside / "model", make_config(shape, layers))


def measure(
    model: Path, *, rounds: int, stock: bool, progress: ReportProgress
) -> dict[str, Any]:
    """Run all measurements, interleaving the rounds of compared ones."""
    files = open_checkpoint(model).files
    engines = ["read", "load", *(["stock"] if stock else [])]
    run_in_process("read", model)  # the first run may find a cold page cache
    found: dict[str, Any] = {}
    for heat in ("warm", "cold"):
        seconds: dict[str, list[float]] = {engine: [] for engine in engines}
        for turn in range(rounds):
            first = turn % len(engines)  # disks slow down under load
            for engine in engines[first:] + engines[:first]:
                progress(f"{heat} {engine}, round {turn + 1} of {rounds}")
                if heat == "cold":
                    drop_pages(files)
                seconds[engine].append(run_in_process(engine, model)["seconds"])
        found[heat] = {engine: median(taken) for engine, taken in seconds.items()}
    found["bytes"] = sum(path.stat().st_size for path in files)
    for name in ("decode", "fill", "steady", "prediction"):
        progress(f"measuring {name}")
        found[name] = run_in_process(name, model)
    return found


def run_in_process(name: str, model: Path) -> dict[str, Any]:
    """Run one measurement in its own process. Raises GptOssError if it fails."""
    command = [sys.executable, "-m", MODULE, name, str(model)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
        raise GptOssError(f"measuring `{name}` failed: {reason[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def drop_pages(files: tuple[Path, ...]) -> None:
    """Drop files from the page cache; does nothing on systems without that call."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def compare_with_aims(runs: dict[str, Any]) -> tuple[Aim, ...]:
    """Compare the measurements with their bounds."""
    warm, cold, steady = runs["warm"], runs["cold"], runs["steady"]
    aims = []
    if "stock" in warm:
        speedup = warm["stock"] / warm["load"]
        aims.append(Aim("warm load against mlx-lm", speedup, WARM_LOAD, "x"))
    share = cold["read"] / cold["load"]
    decode, fill = runs["decode"], runs["fill"]
    return (
        *aims,
        Aim("cold load against plain preadv", share, COLD_SHARE, "x"),
        Aim("streamed against resident decode", decode["ratio"], DECODE_SHARE, "x"),
        Aim(
            "host cost a layer, all hit",
            decode["host_microseconds"],
            HOST_MICROSECONDS,
            "us",
            at_least=False,
        ),
        Aim("slot fill against plain preadv", fill["ratio"], FILL_SHARE, "x"),
        Aim("MLX bytes moved when steady", steady["active_spread"], 0, "B", False),
        Aim("RSS growth over 500 tokens", steady["rss_growth"], RSS_GROWTH, "B", False),
    )
