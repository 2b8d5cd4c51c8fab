"""Benchmark the converter against a plain copy of the same bytes and against mlx-lm.

Sources in the forms of other tools, which mlx-lm does not read, against a copy alone.
Each run is a separate process on the same disk, with the source in the page cache:
`python -m mlx_gptoss_convert.measure.speed ENGINE SRC DST` prints its seconds, without
imports, and its peak memory. Knows engines and clocks, nothing of tensors.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import mlx_gptoss
from mlx_gptoss.diagnostics.bench.peak import peak_rss
from mlx_gptoss.diagnostics.bench.random_checkpoint import (
    random_config,
    write_random,
)
from mlx_gptoss.errors import ConversionError
from mlx_gptoss.files import scratch, storage_errors, temporary_folder
from mlx_gptoss.format.file_names import TOKENIZER_FILE
from mlx_gptoss_convert.measure.foreign_sources import write_source
from mlx_gptoss_convert.read.source import SLICE_BYTES

HF = "hf"  # the form of OpenAI's checkpoints
DEMO_TOKENIZER = Path(mlx_gptoss.__file__).parent / "demo" / TOKENIZER_FILE
Engine = Callable[[Path, Path], int]  # source, result; the memory it foresees
COPY, LOSSLESS, Q8, PEER = "copy + fsync", "lossless", "q8", "mlx-lm q8"


@dataclass(frozen=True)
class EngineResult:
    """One engine: the median time of its rounds, its output and its peak memory."""

    engine: str
    seconds: float
    nbytes: int  # written
    peak: int  # of the process, in bytes
    failure: str = ""
    grown: int = 0  # of the peak, since the engine began
    bound: int = 0  # of that, foreseen by the plan; 0 for other engines

    @property
    def rate(self) -> float:
        """Bytes written per second."""
        return self.nbytes / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class ConvertBench:
    """The results of all engines, and their ratios."""

    source_bytes: int
    rows: tuple[EngineResult, ...]

    def row(self, engine: str) -> EngineResult:
        return next(row for row in self.rows if row.engine == engine)

    @property
    def copy_share(self) -> float:
        """Rate of a lossless conversion relative to a plain copy."""
        return self.row(LOSSLESS).rate / self.row(COPY).rate

    @property
    def peer_ratios(self) -> tuple[float, float] | None:
        """mlx-lm's time and peak memory relative to `q8`; None if it failed."""
        ours = self.row(Q8)
        peer = next((row for row in self.rows if row.engine == PEER), None)
        if peer is None or peer.failure:
            return None
        return peer.seconds / ours.seconds, peer.peak / ours.peak

    def as_json(self) -> dict[str, Any]:
        return {
            "source_bytes": self.source_bytes,
            "rows": [asdict(row) for row in self.rows],
            "copy_share": self.copy_share,
            "peer_ratios": self.peer_ratios,
        }


def bench_convert(
    size: int,
    folder: Path | None = None,
    *,
    rounds: int = 3,
    form: str = HF,
    progress: Callable[[str], None] = lambda line: None,
) -> ConvertBench:
    """Measure on a random checkpoint of `size` bytes, written to `folder` and removed.

    `form` is HF or one of `foreign_sources`; the size is then that of the same model in
    OpenAI's form. Needs three times `size` of disk, up to five for other forms. Raises
    ConversionError if the copy or a conversion of this package fails; a failure of
    mlx-lm becomes a row.
    """
    with scratch(folder or temporary_folder()) as made:
        source = made / "source"
        progress(f"writing {size / 1e9:.1f} GB of noise")
        if form == HF:
            write_random(source, size)
        else:
            write_source(source, random_config(size), form)
        with storage_errors(source):  # mlx-lm needs one, and a GGUF here has none
            shutil.copyfile(DEMO_TOKENIZER, source / TOKENIZER_FILE)
        found: dict[str, list[EngineResult]] = {}
        for number in range(rounds):
            for engine in [x for x in ENGINES if form == HF or x != PEER]:
                progress(f"round {number + 1}: {engine}")
                os.sync()
                row = run_engine(engine, source, made / "result")
                found.setdefault(engine, []).append(row)
        nbytes = folder_size(source)
    return ConvertBench(nbytes, tuple(map(median_result, found.values())))


def folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def median_result(rows: Sequence[EngineResult]) -> EngineResult:
    """Return the median time and the largest peak of several rounds."""
    if rows[0].failure:
        return rows[0]
    seconds = median(row.seconds for row in rows)
    return replace(
        rows[0],
        seconds=seconds,
        peak=max(row.peak for row in rows),
        grown=max(row.grown for row in rows),
    )


def run_engine(engine: str, source: Path, result: Path) -> EngineResult:
    """Run an engine in a separate process and remove its output."""
    module = "mlx_gptoss_convert.measure.speed"
    command = [sys.executable, "-m", module, engine, str(source), str(result)]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    try:
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            if engine != PEER:
                raise ConversionError(f"the benchmark's `{engine}` failed: {last}")
            return EngineResult(engine, 0.0, 0, 0, last)
        result_line = json.loads(done.stdout.splitlines()[-1])
        return EngineResult(engine, nbytes=folder_size(result), **result_line)
    finally:
        shutil.rmtree(result, ignore_errors=True)


def copy_folder(source: Path, result: Path) -> int:
    """Copy a folder file by file, with fsync."""
    result.mkdir()
    for path in source.iterdir():
        with path.open("rb") as reader, (result / path.name).open("wb") as writer:
            shutil.copyfileobj(reader, writer, SLICE_BYTES)
            writer.flush()
            os.fsync(writer.fileno())
    return 0


def own_engine(recipe: str) -> Engine:
    # Imported here, so that the processes of other engines stay small.
    from mlx_gptoss_convert.plan.estimates import peak_bytes  # noqa: PLC0415
    from mlx_gptoss_convert.plan.recipe import RECIPES  # noqa: PLC0415
    from mlx_gptoss_convert.read.checkpoint import open_source  # noqa: PLC0415
    from mlx_gptoss_convert.write.conversion import convert  # noqa: PLC0415
    from mlx_gptoss_convert.write.outputs import plan_output  # noqa: PLC0415

    def run(source: Path, result: Path) -> int:
        opened = open_source(source, tokenizer=source / TOKENIZER_FILE)
        plan = plan_output(opened, RECIPES[recipe])
        convert(plan, result)
        return peak_bytes(plan)

    return run


def mlx_lm_engine() -> Engine:
    from mlx_lm import convert

    def run(source: Path, result: Path) -> int:
        convert(str(source), str(result), quantize=True, q_bits=8, q_group_size=64)
        return 0

    return run


# Each imports what it needs and returns the function that is timed.
ENGINES: dict[str, Callable[[], Engine]] = {
    COPY: lambda: copy_folder,
    LOSSLESS: lambda: own_engine(LOSSLESS),
    Q8: lambda: own_engine(Q8),
    PEER: mlx_lm_engine,
}


def main(engine: str, source: str, result: str) -> None:
    """Run one engine in this process; print time and peak memory as the last line."""
    work = ENGINES[engine]()
    before, start = peak_rss(), time.perf_counter()
    bound = work(Path(source), Path(result))
    seconds, peak = time.perf_counter() - start, peak_rss()
    found = {"seconds": seconds, "peak": peak, "grown": peak - before, "bound": bound}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
