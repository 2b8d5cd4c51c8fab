r"""The program that trains with one engine in its own process.

    python -m mlx_gptoss.diagnostics.bench.training_main \
        ENGINE FOLDER OPTIONS WORK DECODE

Reads one JSON object per line from stdin and replies to each with one on stdout; what
libraries print goes to stderr. The first line is a `TrainingReady`, or {"error": ...}.

    {"ask": "step", "seed": 3}   ->  seconds, loss: a step on random tokens of this seed
    {"ask": "totals"}            ->  peak_memory, peak_rss

OPTIONS are the fields of a LoadOptions, WORK those of a TrainingWork, as JSON; DECODE
is `auto` or `off`. The process ends when stdin closes.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from mlx_gptoss.diagnostics.bench.peak import peak_rss
from mlx_gptoss.diagnostics.bench.tune_results import TrainingWork
from mlx_gptoss.model.blas import preload_blas


@dataclass(frozen=True)
class TrainingReady:
    """The loaded engine: package, dtype, BLAS, weights, and the memory it planned."""

    package: str
    dtype: str
    blas: str
    weights: str
    planned_memory: int | None


def main(engine: str, folder: str, options: str, work: str, decode: str) -> None:
    """Load the engine, then make a step at each request until stdin closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent closes stdin instead
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        given = json.loads(options), json.loads(work)
        _serve(engine, Path(folder), *given, decode, replies)
    except Exception as error:  # the edge of the process: reported, then raised
        _write_reply(
            replies, {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        )
        raise


def _serve(
    name: str,
    folder: Path,
    options: Mapping[str, Any],
    work: Mapping[str, Any],
    decode: str,
    replies: TextIO,
) -> None:
    from mlx_gptoss.diagnostics.bench.training_engines import (  # noqa: PLC0415
        TRAINING_ENGINES,
    )
    from mlx_gptoss.engine.load_options import LoadOptions  # noqa: PLC0415

    wanted = TrainingWork(**{**work, "targets": tuple(work["targets"])})
    engine = TRAINING_ENGINES[name](folder, LoadOptions(**options), wanted, decode)
    vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
    ready = TrainingReady(
        engine.package,
        engine.dtype,
        preload_blas().state,
        engine.weights,
        engine.planned_memory,
    )
    _write_reply(replies, asdict(ready))
    engine.train(
        _batches(wanted, vocab_size, replies),
        lambda seconds, loss: _write_reply(replies, {"seconds": seconds, "loss": loss}),
    )


def _batches(
    work: TrainingWork, vocab_size: int, replies: TextIO
) -> Iterator[np.ndarray]:
    """Yield a batch at each request for a step; reply to the others."""
    import mlx.core as mx  # noqa: PLC0415 - a broken MLX must be reported

    for line in sys.stdin:
        request = json.loads(line)
        match request["ask"]:
            case "step":
                draw = np.random.default_rng(request["seed"])
                shape = (work.rows, work.tokens + 1)
                yield draw.integers(0, vocab_size, shape).astype(np.int32)
            case "totals":
                peaks = {"peak_memory": mx.get_peak_memory(), "peak_rss": peak_rss()}
                _write_reply(replies, peaks)
            case unknown:
                raise ValueError(f"unknown request `{unknown}`")


def _write_reply(replies: TextIO, reply: Mapping[str, Any]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
