"""Runs cells of Python, one after another, in one set of names; a process of its own.

    python -I child_kernel.py '{"replies": 3, "file": ..., "port": ...}'

Requests come on stdin, replies go to the descriptor `replies`, JSON, one a line:
{"code": "...", "token": "..."} is answered by {"done": the token, "told": how many
threads were told to end, "stubborn": how many did not} once the cell has ended. What
the cell writes, its last value and its traceback go to stdout as they come. `file`
and `port` are what a sandbox must keep out of reach. Imports nothing but the
standard library and child_threads.py beside it: it is run by its path, inside a
sandbox.
"""

import ast
import builtins
import inspect
import json
import linecache
import os
import runpy
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

COULD_READ = "read a file of the user"
COULD_WRITE = "write where the user can"
COULD_CONNECT = "open a network connection"
COULD_FORK = "start a process"
COULD_SHARE = "keep memory outside its process"
PROBE_SECONDS = 2
IPC_PRIVATE, IPC_RMID = 0, 0

threads = runpy.run_path(
    str(Path(__file__).with_name("child_threads.py")), run_name="child_threads"
)


def main(given: dict[str, Any]) -> None:
    """Take over the standard streams, tell what the sandbox lets through, serve."""
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # input() finds an end, not the next request
    for number, name in ((1, "stdout"), (2, "stderr")):
        setattr(sys, name, _text(number))
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for good
    with os.fdopen(given["replies"], "w", encoding="utf-8") as answers:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _reply(answers, {"ready": True, "leaks": leaks(given["file"], given["port"])})
        serve(requests, answers)


def serve(requests: TextIO, answers: TextIO) -> None:
    """Run the cells that come, until no more can come."""
    names: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins}
    left_behind = threads["Threads"]()
    for number, line in enumerate(requests, 1):
        request = json.loads(line)
        run_cell(request["code"], names, number)
        left = left_behind.end()
        _flush()
        reply = {"done": request["token"], "told": left.told, "stubborn": left.stubborn}
        _reply(answers, reply)
    os._exit(0)  # nothing that a cell registered runs at the end


def run_cell(code: str, names: dict[str, Any], number: int) -> None:
    """Run one cell; show its last value, or the traceback of what ended it."""
    file = f"<cell {number}>"
    linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _run(ast.parse(code, file), names, file)
    except BaseException as error:  # SystemExit too: the next cell is to run
        _show(error, file)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threads["disarm"]()
        _flush()


def _run(cell: ast.Module, names: dict[str, Any], file: str) -> None:
    last = (
        cell.body.pop() if cell.body and isinstance(cell.body[-1], ast.Expr) else None
    )
    if cell.body:
        _evaluate(cell, "exec", names, file)
    if isinstance(last, ast.Expr):
        value = _evaluate(ast.Expression(last.value), "eval", names, file)
        if value is not None:
            names["_"] = value
            print(repr(value))


def _evaluate(tree: ast.AST, mode: str, names: dict[str, Any], file: str) -> Any:
    """Run a part of a cell; `await` may stand at its top level."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile(tree, file, mode, flags=flags)  # pyright: ignore[reportCallIssue, reportArgumentType]
    value = eval(code, names)
    if code.co_flags & inspect.CO_COROUTINE:
        import asyncio  # noqa: PLC0415 - slow to start, seldom needed

        return asyncio.run(value)
    return value


def _show(error: BaseException, file: str) -> None:
    """Write a traceback that begins in the cell."""
    place = error.__traceback__
    while place is not None and place.tb_frame.f_code.co_filename != file:
        place = place.tb_next
    try:
        traceback.print_exception(type(error), error, place, file=sys.stdout)
    except BaseException:  # its own __str__ fails, or the stack is at its end
        print(type(error).__name__)


# What the sandbox should not let through


def leaks(file: str, port: int) -> list[str]:
    """Try what must fail; return what did not."""
    probes: dict[str, Callable[[], None]] = {
        COULD_READ: lambda: _read(file),
        COULD_WRITE: lambda: _write(file + ".written"),
        COULD_CONNECT: lambda: _connect(port),
        COULD_FORK: _fork,
        COULD_SHARE: _share,
    }
    return [name for name, probe in probes.items() if _succeeds(probe)]


def _succeeds(probe: Callable[[], None]) -> bool:
    try:
        probe()
    except OSError:
        return False
    return True


def _read(path: str) -> None:
    with open(path, "rb") as file:
        file.read(1)


def _write(path: str) -> None:
    with open(path, "wb") as file:
        file.write(b"x")


def _connect(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), timeout=PROBE_SECONDS).close()


def _fork() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def _share() -> None:
    import ctypes  # noqa: PLC0415 - not for the process that only loads this file

    libc = ctypes.CDLL(None, use_errno=True)
    segment = libc.shmget(IPC_PRIVATE, 1, 0o600)
    if segment < 0:
        raise OSError(ctypes.get_errno(), "shmget")
    libc.shmctl(segment, IPC_RMID, None)


# Streams


def _text(number: int) -> TextIO:
    return open(
        number,
        "w",
        encoding="utf-8",
        errors="backslashreplace",
        buffering=1,
        closefd=False,
    )


def _reply(answers: TextIO, reply: dict[str, Any]) -> None:
    answers.write(json.dumps(reply) + "\n")
    answers.flush()


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
