"""A batch that is killed twenty times ends as one that was left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.workloads.test_batch_run import chat, read_lines, undated, write_lines

KILLS = 20
ROWS = 250
PATIENCE = 60  # seconds
# A process for each run, whose model takes a moment for each token. They are forked of
# one that has imported everything and started nothing: importing takes longest.
RUNS = """
import os, sys
from mlx_gptoss.workloads.batch import run_batch
from tests.support.echoing import echoing
for line in sys.stdin:
    source, output, order = line.rstrip("\\n").split("\\t")
    if child := os.fork():
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    with echoing(0.0002) as runtime:
        run_batch(runtime, source, output, in_order=order == "in_order")
    os._exit(0)
"""


class Runs:
    """Runs of batches, each a process, one after the other."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUNS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, source: Path, output: Path, order: str) -> int:
        """Start one; return its process id."""
        assert self.process.stdin and self.process.stdout
        print(source, output, order, sep="\t", file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def wait(self) -> int:
        """Wait for its end; return its exit code, less than 0 for a signal."""
        assert self.process.stdout
        return int(self.process.stdout.readline())


@pytest.fixture
def runs() -> Iterator[Runs]:
    runs = Runs()
    with runs.process:
        yield runs
        runs.process.kill()


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize("order", ["in_order", "as_they_end"])
def test_no_line_is_lost_or_doubled_by_kills(
    tmp_path: Path, order: str, runs: Runs
) -> None:
    rows: list[Any] = [chat(f"id{n}", f"number {n}") for n in range(ROWS)]
    rows[7] = rows[7] | {"body": {}}  # has no answer
    source = write_lines(tmp_path / "in.jsonl", rows)
    output, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    kills = KILLS // 2  # in each of both orders
    for _ in range(kills):
        process = runs.start(source, output, order)
        wanted = min(ROWS - 40, lines_in(output) + random.randrange(2, 30))
        until = time.monotonic() + PATIENCE
        while lines_in(output) < wanted:
            assert time.monotonic() < until, f"{lines_in(output)} of {wanted} lines"
            time.sleep(0.001)
        time.sleep(random.random() / 50)
        os.kill(process, signal.SIGKILL)
        assert runs.wait() == -signal.SIGKILL  # it was not done before
    runs.start(source, output, order)
    assert runs.wait() == 0
    runs.start(source, whole, "in_order")
    assert runs.wait() == 0
    found = {line["custom_id"]: undated(line) for line in read_lines(output)}
    expected = {line["custom_id"]: undated(line) for line in read_lines(whole)}
    assert lines_in(output) == len(found) == ROWS - 1
    assert json.dumps(found, sort_keys=True) == json.dumps(expected, sort_keys=True)
    [error] = read_lines(tmp_path / "out.errors.jsonl")
    assert error["custom_id"] == "id7"
