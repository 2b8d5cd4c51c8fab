"""The door of the mlx-gptoss command; also `python -m mlx_gptoss`.

Whoever presses Ctrl-C while the program is still being imported, or is at its end, ends
it without a trace: nothing could be lost.
"""

import os
import signal
from types import FrameType

INTERRUPTED = 130


def main() -> None:
    """Run the command, with the streams and signals that a command expects."""
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:  # and not ignored, as of a program in the background
        signal.signal(signal.SIGINT, leave_at_once)
    from mlx_gptoss.cli import cli  # noqa: PLC0415 - takes most of the time

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        cli(prog_name="mlx-gptoss")
    finally:
        if interruptible:
            signal.signal(signal.SIGINT, leave_at_once)


def leave_at_once(_signum: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
