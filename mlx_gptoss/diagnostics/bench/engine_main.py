"""The program that runs an engine in its own process.

    python -m mlx_gptoss.diagnostics.bench.engine_main ENGINE FOLDER OPTIONS

Reads one JSON object per line from stdin and replies to each with one on stdout; what
libraries print goes to stderr. The first line is a `Ready`, or `{"error": ...}`.

    {"ask": "run", "prompt": [1, 2], "tokens": 8}  ->  first_token_s, decode_s, tokens
    {"ask": "primitives", "prompt": [1, 2]}        ->  {"Matmul": 25, ...}
    {"ask": "batch", "prompts": [[1, 2], [3, 4]]}  ->  {"Matmul": 25, ...}
    {"ask": "totals"}                              ->  peak_memory, peak_rss, hit_rate

OPTIONS are the fields of a LoadOptions as a JSON object. The process ends when stdin
closes. Every engine runs this way, ours too, so that all have the same
BLAS, the same kind of process and the same clock.
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


@dataclass(frozen=True)
class Ready:
    """The loaded engine: package, dtype, BLAS, seconds to load, expert storage."""

    package: str
    dtype: str
    blas: str
    load_s: float
    experts: str


def main(engine: str, folder: str, options: str) -> None:
    """Load the engine, then process requests until stdin closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent closes stdin instead
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        _serve(engine, Path(folder), json.loads(options), replies)
    except Exception as error:  # the edge of the process: reported, then raised
        _write_reply(
            replies, {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        )
        raise


def _serve(
    name: str, folder: Path, options: Mapping[str, Any], replies: TextIO
) -> None:
    import mlx.core as mx  # noqa: PLC0415 - a broken MLX must be reported

    from mlx_gptoss.diagnostics.bench.engines import ENGINES, time_run  # noqa: PLC0415
    from mlx_gptoss.engine.load_options import LoadOptions  # noqa: PLC0415

    engine = ENGINES[name](folder, LoadOptions(**options))
    blas = preload_blas().state
    ready = Ready(engine.package, engine.dtype, blas, engine.load_s, engine.experts)
    _write_reply(replies, asdict(ready))
    for line in sys.stdin:
        request = json.loads(line)
        match request["ask"]:
            case "run":
                run = time_run(engine, request["prompt"], request["tokens"])
                _write_reply(replies, asdict(run))
            case "primitives":
                _write_reply(replies, engine.primitives(request["prompt"]))
            case "batch":
                _write_reply(replies, engine.batch_primitives(request["prompts"]))
            case "totals":
                totals = {
                    "peak_memory": mx.get_peak_memory(),
                    "peak_rss": peak_rss(),
                    "hit_rate": engine.hit_rate,
                }
                _write_reply(replies, totals)
            case unknown:
                raise ValueError(f"unknown request `{unknown}`")


def _write_reply(replies: TextIO, reply: Mapping[str, Any]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
