"""End the kernel with its owner, even if it is stopped, and remove its files.

    python -I child_guard.py '{"command": [...], "replies": 3, "life": 4, ...}'

The kernel is stopped between cells and cannot notice that its owner is gone. This
process, which runs no code of the model, waits for that: it holds `life`, the read end
of a pipe that closes with the owner. On Linux child_linux.py forks the kernel and calls
`guard`; elsewhere `command` starts the kernel, with the settings as last argument, and
`drive`, a folder on disk, is removed if the owner no longer can.
Imports only the standard library, because it is run by its path.
"""

import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
from typing import Any, NoReturn

FEW_FILES = 256  # open at a time
CHUNK = 4096


def main(given: dict[str, Any]) -> NoReturn:
    """Start `command` within limits, report its process id, and guard it."""
    limit_files(given["drive_bytes"])
    replies = given["replies"]
    kernel = subprocess.Popen(
        [*given["command"], json.dumps(given)],
        pass_fds=[replies],
        start_new_session=True,  # signals to its group do not reach the guard
    )
    send_reply(replies, {"pid": kernel.pid})
    guard(kernel.pid, replies, given["life"], given["drive"])


def limit_files(file_bytes: int) -> None:
    """Limit the size of a file and the number of open files; no core files."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW_FILES, FEW_FILES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def guard(child: int, replies: int, life: int, drive: str | None = None) -> NoReturn:
    """Wait for `child` to end, or kill it once `life` is closed; then exit."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for descriptor in (0, 1, 2, replies):  # the owner waits for them to close
        os.close(descriptor)
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
        ready, _, _ = select.select([life, woken], [], [])
        if life in ready:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            if drive is not None:
                shutil.rmtree(drive, ignore_errors=True)
            os._exit(1)
        os.read(woken, CHUNK)


def send_reply(replies: int, reply: dict[str, Any]) -> None:
    os.write(replies, (json.dumps(reply) + "\n").encode())


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
