"""The pipes of a kernel, with a process that only waits in its place."""

import os
import subprocess
import sys
from time import monotonic

from mlx_gptoss.chat.tools.notebook.kernel_connection import KernelConnection

WAITS = [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"]


def test_a_reply_may_begin_before_the_time_ends_and_go_on_after_it() -> None:
    read, write = os.pipe()
    with subprocess.Popen(
        WAITS, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        connection = KernelConnection(process, read)

        def replied(bytes_of_it: bytes, seconds: float) -> object:
            os.write(write, bytes_of_it)
            end = monotonic() + seconds
            return connection.wait_for_reply(print, lambda: True, end)

        try:
            assert replied(b'{"done": "on', seconds=0.2) is None
            assert replied(b'e"}\n', seconds=20) == {"done": "one"}
            assert replied(b'{"done": "two"}\n', seconds=20) == {"done": "two"}
        finally:
            connection.close()
            os.close(write)
