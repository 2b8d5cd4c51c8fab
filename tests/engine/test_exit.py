"""However a program ends, models give their memory back first."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REPORT = """
import atexit, signal, sys
import mlx.core as mx

@atexit.register  # before the package's own, and so run after it
def report():
    print("active", mx.get_active_memory(), flush=True)

from mlx_gptoss import SamplingParams, load
from mlx_gptoss.cli.exit_codes import end
"""
RUN = (
    REPORT
    + """
def run():
    with load(sys.argv[1], experts="streamed") as runtime:
        print("ready", flush=True)
        if sys.argv[2] == "fail":
            raise ValueError("a mistake")
        while True:
            for step in runtime.generate([1, 2, 3], SamplingParams(max_tokens=50)):
                pass

signal.signal(signal.SIGTERM, end)
run()
"""
)
FORGOTTEN = REPORT + "runtime = load(sys.argv[1])"


def started(code: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def active(output: str) -> int:
    return int(output.split("active ")[1].split()[0])


@pytest.mark.parametrize(("how", "code"), [("term", 128 + signal.SIGTERM), ("fail", 1)])
def test_arrays_are_released_before_the_process_ends(how: str, code: int) -> None:
    with started(RUN, "demo", how) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        if how == "term":
            process.send_signal(signal.SIGTERM)
        # `communicate` would lose what came in one piece with the first line.
        output, errors = process.stdout.read(), process.stderr.read()
    assert process.returncode == code, errors
    assert active(output) < 100_000
    assert ("a mistake" in errors) is (how == "fail")


def test_a_runtime_that_was_not_closed_is_closed_at_the_end() -> None:
    process = started(FORGOTTEN, "demo")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert active(output) < 100_000
