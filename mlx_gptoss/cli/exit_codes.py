"""The edge of a command: however it ends, one line says why and a number says how.

    run(work)      # leaves the process

Exit codes: 0 done, 1 an error, 2 wrong usage, 130 interrupted. Knows click's errors
and the system's, and nothing of commands.
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
    """Run a command to its end and exit with its code."""
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
    """End as an exception does, so that models give their memory back."""
    expect_no_reader()  # what is still drawn on its way out is no answer
    sys.exit(SIGNALLED + signum)


def take_ending_signals() -> Callable[[], None]:
    """End in order by SIGTERM and SIGHUP, unless that is ignored; call to undo that."""
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
    """Run it, and return the exit code; what click returns is one, or nothing."""
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
    except Exception as error:  # an interrupt in disguise, else it goes on
        stopped = _what_stopped(error)
        if stopped is None:
            raise
        code = INTERRUPTED if isinstance(stopped, KeyboardInterrupt) else stopped.code
    return code if isinstance(code, int) else 0


def _output_failed(error: OutputError) -> int:
    """Say that the answer could not be written; of a pipe that was closed nothing."""
    if error.errno != errno.EPIPE:
        _say(f"Error: the answer cannot be written to stdout: {error.strerror}")
    return FAILED


def _say(text: str) -> None:
    click.echo(text, err=True)


def _what_stopped(error: BaseException | None) -> KeyboardInterrupt | SystemExit | None:
    """Return the interrupt behind an error, if there is one.

    One that comes while a class is made, as by an import, is told as a RuntimeError.
    """
    while error is not None:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            return error
        error = error.__cause__ or error.__context__
    return None
