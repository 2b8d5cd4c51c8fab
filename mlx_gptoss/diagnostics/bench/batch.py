"""Time a pile of texts behind one long policy: `mlx-gptoss batch` and a peer's server.

Both continue the same raw prompts greedily, by the same number of tokens (tokens that
end an answer are biased away). Ours is the command itself, a new process for each
round, whose time is that of its rows without loading the model; the peer is a server
that is warm, asked by as many threads as we answer rows at a time.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.diagnostics.bench.child_process import EngineFailure
from mlx_gptoss.diagnostics.bench.engines import MLX_LM, dtype_name
from mlx_gptoss.diagnostics.bench.our_server import NAME, arguments
from mlx_gptoss.diagnostics.bench.serve_load import EXCLUDED_BIAS, ServeLoad
from mlx_gptoss.diagnostics.bench.stock_client import StockServer
from mlx_gptoss.diagnostics.bench.streams import COMPLETIONS
from mlx_gptoss.diagnostics.doctor import describe_machine
from mlx_gptoss.diagnostics.progress import ReportProgress, ignore_progress
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.engine.outputs import stop_reasons
from mlx_gptoss.errors import GptOssError

POLL_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True)
class PileWork:
    """What is worked through: `rows` texts of `shortest` to `longest` tokens, each
    behind the same `policy` tokens and continued by `tokens`, `parallel` at a time.
    The peer is asked for no more after `peer_seconds`, None for all rows.
    """

    rows: int = 500
    policy: int = 1500
    shortest: int = 60
    longest: int = 300
    tokens: int = 32
    parallel: int = 16
    peer_seconds: float | None = None


@dataclass(frozen=True)
class PileColumn:
    """One side: the median seconds of its rows, how many they were, and its rates.

    `cached_share` is the share of the prompts' tokens that were not read. `early_rss`
    and `late_rss` are the process's memory in bytes at a tenth of the rows and at the
    end, of ours only.
    """

    name: str
    seconds: float = 0.0
    rows: int = 0
    rows_per_second: float = 0.0
    tokens_per_second: float = 0.0
    cached_share: float | None = None
    early_rss: int | None = None
    late_rss: int | None = None
    failure: str | None = None


@dataclass(frozen=True)
class BatchBench:
    """Columns: ours, then the peer's. A ratio above 1 says that ours is faster."""

    model: str
    machine: str
    load_average: float  # of the machine at the start
    rounds: int
    work: PileWork
    columns: tuple[PileColumn, ...]

    @property
    def ratio(self) -> float | None:
        if len(self.columns) < 2 or self.columns[1].failure:
            return None
        ours, theirs = self.columns
        return ours.rows_per_second / theirs.rows_per_second

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.ratio}


@dataclass(frozen=True)
class OurRun:
    """One run of the command."""

    seconds: float
    cached_share: float
    early_rss: int
    late_rss: int


def bench_batch(
    model: Path,
    options: LoadOptions,
    work: PileWork,
    *,
    against: str | None = None,
    rounds: int = 3,
    progress: ReportProgress = ignore_progress,
) -> BatchBench:
    """Time `work` on the model in a folder, and `against` "mlx-lm" on the same.

    Raises EngineFailure if ours fails; a failure of the peer is in its column.
    """
    if against not in (None, MLX_LM):
        raise GptOssError(f"cannot compare with `{against}`: only `{MLX_LM}` is known")
    checkpoint = open_checkpoint(model, strict=options.strict)
    folder = checkpoint.folder.absolute()
    tokenizer = Tokenizer.open(folder)
    ends = list(stop_reasons(tokenizer, checkpoint.config.eos_token_ids))
    dtype = dtype_name(options.compute_dtype)
    options = replace(options, dtype=dtype, batch=None, cache=None)
    load_average = os.getloadavg()[0]
    ours: list[OurRun] = []
    theirs: list[tuple[int, float]] = []
    failure: str | None = None
    with ExitStack() as stack:
        peer = None
        if against is not None:
            progress("starting mlx-lm's server")
            try:
                peer = stack.enter_context(StockServer(folder, dtype))
            except EngineFailure as error:
                failure = str(error)
        for number in range(rounds):
            bodies = pile_of(ServeLoad(tokenizer, ends, 0, 0), work, seed=number)
            progress(f"round {number + 1} of {rounds}: {NAME}")
            ours.append(run_ours(folder, options, bodies, work))
            if peer is not None and failure is None:
                progress(f"round {number + 1} of {rounds}: {MLX_LM}")
                try:
                    theirs.append(run_peer(peer, bodies, work))
                except GptOssError as error:
                    failure = str(error)
    columns = [_our_column(ours, work)]
    if against is not None:
        name = peer.address.name if peer is not None else against
        columns.append(
            PileColumn(name, failure=failure)
            if failure is not None
            else PileColumn(name, *_rates(theirs, work))
        )
    machine = describe_machine()
    return BatchBench(str(model), machine, load_average, rounds, work, tuple(columns))


def pile_of(load: ServeLoad, work: PileWork, *, seed: int) -> list[dict[str, Any]]:
    """Return the bodies of raw completions, the same for the same seed."""
    rng = random.Random(seed)
    policy = load.words(rng, work.policy)
    bias = {str(token): EXCLUDED_BIAS for token in load.ends}
    return [
        {
            "prompt": f"{policy} {load.words(rng, length)}",
            "max_tokens": work.tokens,
            "temperature": 0,
            "logit_bias": bias,
        }
        for length in rng.choices(range(work.shortest, work.longest + 1), k=work.rows)
    ]


def run_ours(
    folder: Path, options: LoadOptions, bodies: Sequence[dict[str, Any]], work: PileWork
) -> OurRun:
    """Run the command on the bodies. Raises EngineFailure."""
    with tempfile.TemporaryDirectory(prefix="mlx-gptoss-bench-") as home:
        source, output = Path(home) / "in.jsonl", Path(home) / "out.jsonl"
        lines = (
            {"custom_id": str(n), "url": COMPLETIONS, "body": body}
            for n, body in enumerate(bodies)
        )
        source.write_text("".join(json.dumps(line) + "\n" for line in lines))
        command = ["-m", "mlx_gptoss", "batch", str(source), str(output), "--json"]
        command += ["--model", str(folder), "--parallel", str(work.parallel)]
        process = subprocess.Popen(
            [sys.executable, *command, *arguments(options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ, HF_HUB_OFFLINE="1"),
        )
        early, late = _watch_memory(process, output, work.rows // 10)
        facts, errors = process.communicate()
    if process.returncode:
        raise EngineFailure(f"{NAME}: {errors.strip().splitlines()[-1:]}")
    found = json.loads(facts)
    cached = found["cached_tokens"] / found["prompt_tokens"]
    return OurRun(found["seconds"], cached, early, late)


def _watch_memory(
    process: "subprocess.Popen[str]", output: Path, early_rows: int
) -> tuple[int, int]:
    """Return the resident bytes when so many rows are done, and the last seen."""
    early = late = 0
    child = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            late = child.memory_info().rss or late  # 0 once it has ended
            if not early and output.exists():
                written = output.read_bytes().count(b"\n")
                early = late if written >= early_rows else 0
        except psutil.NoSuchProcess:
            break
        time.sleep(POLL_SECONDS)
    return early or late, late


def run_peer(
    peer: StockServer, bodies: Sequence[dict[str, Any]], work: PileWork
) -> tuple[int, float]:
    """Ask a server for all, so many at a time; return the rows done, and the seconds.

    After `peer_seconds` no further row is asked for; those begun are waited for.
    """
    client = peer.address.client()
    began = time.perf_counter()

    def ask(body: dict[str, Any]) -> bool:
        waited = time.perf_counter() - began
        if work.peer_seconds is not None and waited > work.peer_seconds:
            return False
        if not client.post(COMPLETIONS, body)["choices"]:
            raise EngineFailure(f"{peer.address.name}: a reply without an answer")
        return True

    with ThreadPoolExecutor(work.parallel) as pool:
        done = sum(pool.map(ask, bodies))
    return done, time.perf_counter() - began


def _our_column(runs: Sequence[OurRun], work: PileWork) -> PileColumn:
    return PileColumn(
        NAME,
        *_rates([(work.rows, run.seconds) for run in runs], work),
        cached_share=median(run.cached_share for run in runs),
        early_rss=int(median(run.early_rss for run in runs)),
        late_rss=int(median(run.late_rss for run in runs)),
    )


def _rates(
    runs: Sequence[tuple[int, float]], work: PileWork
) -> tuple[float, int, float, float]:
    """Return the seconds and rows of the median run, and rows and tokens a second."""
    rows, seconds = sorted(runs, key=lambda run: run[1] / run[0])[len(runs) // 2]
    return seconds, rows, rows / seconds, rows * work.tokens / seconds
