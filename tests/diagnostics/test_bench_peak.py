"""A child's peak memory is its own, however large its parent is."""

import subprocess
import sys

import numpy as np

from mlx_gptoss.diagnostics.bench.peak import peak_rss

PARENT_BYTES = 200 * 2**20
CHILD_BYTES = 60 * 2**20
CHILD = """
import sys
from mlx_gptoss.diagnostics.bench.peak import peak_rss
before = peak_rss()
taken = b"x" * int(sys.argv[1])
print(before, peak_rss() - before)
"""


def test_a_child_sees_its_own_growth() -> None:
    ballast = np.ones(PARENT_BYTES, np.uint8)
    run = subprocess.run(
        [sys.executable, "-c", CHILD, str(CHILD_BYTES)],
        capture_output=True,
        check=True,
        text=True,
    )
    before, growth = map(int, run.stdout.split())
    assert before < PARENT_BYTES < peak_rss()
    assert CHILD_BYTES * 0.9 < growth < 2 * CHILD_BYTES
    assert ballast[-1] == 1
