"""The process an engine runs in.

    python -m mlx_gptoss.diagnostics.bench.engine_main ENGINE FOLDER DTYPE OPTIONS

Reads one JSON object a line from stdin and answers each with one on stdout; what
libraries print goes to stderr. First, unasked, comes a `Ready`, or `{"error": ...}`.

    {"ask": "run", "prompt": [1, 2], "tokens": 8}  ->  first_token_s, decode_s, tokens
    {"ask": "primitives", "prompt": [1, 2]}        ->  {"Matmul": 25, ...}
    {"ask": "totals"}                              ->  peak_memory, peak_rss, hit_rate

OPTIONS are those of the engine, as a JSON object; memory is in bytes.

Ends with its stdin. Every engine runs here, ours too, so that both have the same
BLAS, the same process and the same clock.
"""

import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from mlx_gptoss.diagnostics.bench.peak import peak_rss
from mlx_gptoss.model.blas import preload_blas

AS_SHIPPED = "as-shipped"


@dataclass(frozen=True)
class Ready:
    """What was loaded, into what, and how long it took."""

    package: str
    dtype: str
    blas: str
    load_s: float
    experts: str


def main(engine: str, folder: str, dtype: str, options: str) -> None:
    """Load the engine, then answer questions until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us by our stdin
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        chosen = None if dtype == AS_SHIPPED else dtype
        _serve(engine, Path(folder), chosen, json.loads(options), answers)
    except Exception as error:  # the edge of the process: told, then raised
        _write_reply(
            answers, {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        )
        raise


def _serve(
    name: str,
    folder: Path,
    dtype: str | None,
    options: Mapping[str, Any],
    answers: TextIO,
) -> None:
    import mlx.core as mx  # noqa: PLC0415 - a broken MLX must still be told

    from mlx_gptoss.diagnostics.bench.engines import ENGINES, time_run  # noqa: PLC0415

    engine = ENGINES[name](folder, dtype, **options)
    blas = preload_blas().state
    ready = Ready(engine.package, engine.dtype, blas, engine.load_s, engine.experts)
    _write_reply(answers, asdict(ready))
    for line in sys.stdin:
        question = json.loads(line)
        match question["ask"]:
            case "run":
                run = time_run(engine, question["prompt"], question["tokens"])
                _write_reply(answers, asdict(run))
            case "primitives":
                _write_reply(answers, engine.primitives(question["prompt"]))
            case "totals":
                totals = {
                    "peak_memory": mx.get_peak_memory(),
                    "peak_rss": peak_rss(),
                    "hit_rate": engine.hit_rate,
                }
                _write_reply(answers, totals)
            case unknown:
                raise ValueError(f"unknown question `{unknown}`")


def _write_reply(answers: TextIO, answer: Mapping[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
