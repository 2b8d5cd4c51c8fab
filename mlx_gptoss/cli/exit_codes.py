"""Turn however a command ends into one line on stderr and an exit code.

    run(work)      # exits the process

Exit codes: 0 success, 1 an error, 2 wrong usage, 130 interrupted. Knows click's and
the system's errors; knows nothing of commands.
"""

import errno
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

from mlx_gptoss.cli.streams import (
    OutputError,
    expect_no_reader,
    standard_streams,
)

FAILED = 1
INTERRUPTED = 130
SIGNALLED = 128  # and the signal's number, as shells report it
ENDING = (signal.SIGTERM, signal.SIGHUP)
FULL = (errno.ENOSPC, errno.EDQUOT)


def run(work: Callable[[], Any]) -> NoReturn:
    """Run a command and exit with its code."""
    with standard_streams():
        try:
            code = _settled(work)
            try:
                sys.stdout.flush()
            except OutputError as error:
                code = _output_failed(error)
        except KeyboardInterrupt:
            code = INTERRUPTED
    sys.exit(code)


def end(signum: int, _frame: object) -> None:
    """Raise SystemExit, so that models release their memory."""
    expect_no_reader()  # what is still drawn on its way out is no answer
    sys.exit(SIGNALLED + signum)


def take_ending_signals() -> Callable[[], None]:
    """Exit cleanly on SIGTERM and SIGHUP unless ignored; return an undo function."""
    before = {
        one: signal.signal(one, end)
        for one in ENDING
        if signal.getsignal(one) is not signal.SIG_IGN
    }

    def undo() -> None:
        for one, handler in before.items():
            signal.signal(one, handler)

    return undo


def _settled(work: Callable[[], Any]) -> int:
    """Run `work` and return its exit code."""
    try:
        code = work()
    except SystemExit as ended:
        code = ended.code
    except KeyboardInterrupt:
        return INTERRUPTED
    except click.Abort as abort:
        if isinstance(abort.__cause__, KeyboardInterrupt):
            return INTERRUPTED
        if isinstance(abort.__context__, KeyboardInterrupt):  # at a question
            _say("")
            return INTERRUPTED
        _say("Aborted!")
        return FAILED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except OutputError as error:
        return _output_failed(error)
    except OSError as error:
        full = error.errno in FULL
        hint = ": make room and try again" if full else ""
        _say(f"Error: {error.strerror or error}{hint}")
        return FAILED
    except Exception as error:  # possibly caused by an interrupt
        stopped = _what_stopped(error)
        if stopped is None:
            raise
        code = INTERRUPTED if isinstance(stopped, KeyboardInterrupt) else stopped.code
    return code if isinstance(code, int) else 0


def _output_failed(error: OutputError) -> int:
    """Report that stdout failed; a closed pipe is no error to report."""
    if error.errno != errno.EPIPE:
        _say(f"Error: the answer cannot be written to stdout: {error.strerror}")
    return FAILED


def _say(text: str) -> None:
    click.echo(text, err=True)


def _what_stopped(error: BaseException | None) -> KeyboardInterrupt | SystemExit | None:
    """Return the interrupt that caused an error, if one did.

    Python reports one that arrives while a class is created as a RuntimeError.
    """
    while error is not None:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            return error
        error = error.__cause__ or error.__context__
    return None
