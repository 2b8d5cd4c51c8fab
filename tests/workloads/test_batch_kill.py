"""A batch that is killed twenty times ends as one that was left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.workloads.test_batch_run import chat, read_lines, undated, write_lines

KILLS = 20
ROWS = 250
# A process of its own, whose model takes a moment for each token.
RUN = """
import sys
from mlx_gptoss.workloads.batch import run_batch
from tests.support.echoing import echoing
with echoing(0.0002) as runtime:
    run_batch(runtime, sys.argv[1], sys.argv[2], in_order=sys.argv[3] == "in_order")
"""


def start(source: Path, output: Path, order: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", RUN, str(source), str(output), order]
    return subprocess.Popen(command)


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.parametrize("order", ["in_order", "as_they_end"])
def test_no_line_is_lost_or_doubled_by_kills(tmp_path: Path, order: str) -> None:
    rows: list[Any] = [chat(f"id{n}", f"number {n}") for n in range(ROWS)]
    rows[7] = rows[7] | {"body": {}}  # has no answer
    source = write_lines(tmp_path / "in.jsonl", rows)
    output, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    kills = KILLS // 2  # in each of both orders
    for number in range(kills):
        process = start(source, output, order)
        wanted = min(ROWS - 40, lines_in(output) + random.randrange(2, 30))
        while process.poll() is None and lines_in(output) < wanted:
            time.sleep(0.001)
        time.sleep(random.random() / 50)
        assert process.poll() is None, f"it ended before kill {number + 1}"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert start(source, output, order).wait() == 0
    assert start(source, whole, "in_order").wait() == 0
    found = {line["custom_id"]: undated(line) for line in read_lines(output)}
    expected = {line["custom_id"]: undated(line) for line in read_lines(whole)}
    assert lines_in(output) == len(found) == ROWS - 1
    assert json.dumps(found, sort_keys=True) == json.dumps(expected, sort_keys=True)
    [error] = read_lines(tmp_path / "out.errors.jsonl")
    assert error["custom_id"] == "id7"
