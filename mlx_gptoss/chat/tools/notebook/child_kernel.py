"""Run cells of Python one after another in one namespace, in a process of its own.

    python -I child_kernel.py '{"replies": 3, "file": ..., "port": ...}'

Requests come on stdin, replies go to the descriptor `replies`, as JSON lines:
{"code": "...", "token": "..."} is answered, once the cell has ended, by {"done": the
token, "interrupted": the number of threads asked to end, "stubborn": of those that did
not}. Output of the cell, its last value and its traceback go to stdout at once; each
cell starts with intact standard streams. `file` and `port` must be out of reach in a
sandbox. Imports only the standard library and child_threads.py beside it, because it is
run by its path, inside a sandbox.
"""

import ast
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
from contextlib import suppress
from pathlib import Path
from types import ModuleType
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
    """Take over the standard streams, report leaks of the sandbox, and serve."""
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # input() must not read the next request
    streams = StandardStreams()
    with os.fdopen(given["replies"], "w", encoding="utf-8") as answers:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _reply(answers, {"ready": True, "leaks": leaks(given["file"], given["port"])})
        serve(requests, answers, streams)


def serve(requests: TextIO, answers: TextIO, streams: "StandardStreams") -> None:
    """Run cells until stdin ends."""
    module = sys.modules["__main__"] = ModuleType("__main__")  # where pickle looks
    cell_threads = threads["CellThreads"]()
    for number, line in enumerate(requests, 1):
        request = json.loads(line)
        run_cell(request["code"], vars(module), number, streams)
        left = cell_threads.end()
        streams.flush()
        reply = {
            "done": request["token"],
            "interrupted": left.interrupted,
            "stubborn": left.stubborn,
        }
        _reply(answers, reply)
    os._exit(0)  # without the exit functions that cells registered


def run_cell(
    code: str, names: dict[str, Any], number: int, streams: "StandardStreams"
) -> None:
    """Run one cell; print its last value, or the traceback."""
    file = f"<cell {number}>"
    linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        try:
            value = _run(ast.parse(code, file), names, file)
        finally:
            streams.renew()
        if value is not None:
            names["_"] = value
            sys.stdout.write(f"{value!r}\n")
    except BaseException as error:  # SystemExit too: the next cell must run
        _show(error, file)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threads["disarm"]()
        streams.flush()


def _run(cell: ast.Module, names: dict[str, Any], file: str) -> Any:
    """Run a cell; return the value of its last expression."""
    last = (
        cell.body.pop() if cell.body and isinstance(cell.body[-1], ast.Expr) else None
    )
    if cell.body:
        _evaluate(cell, "exec", names, file)
    if isinstance(last, ast.Expr):
        return _evaluate(ast.Expression(last.value), "eval", names, file)
    return None


def _evaluate(tree: ast.AST, mode: str, names: dict[str, Any], file: str) -> Any:
    """Run a part of a cell; `await` is allowed at the top level."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile(tree, file, mode, flags=flags)  # pyright: ignore[reportCallIssue, reportArgumentType]
    value = eval(code, names)
    if code.co_flags & inspect.CO_COROUTINE:
        import asyncio  # noqa: PLC0415 - slow to import, rarely needed

        return asyncio.run(value)
    return value


def _show(error: BaseException, file: str) -> None:
    """Print a traceback that begins in the cell."""
    place = error.__traceback__
    while place is not None and place.tb_frame.f_code.co_filename != file:
        place = place.tb_next
    try:
        traceback.print_exception(type(error), error, place, file=sys.stdout)
    except BaseException:  # its __str__ fails, or the stack is exhausted
        sys.stdout.write(f"{type(error).__name__}\n")


# Leaks of the sandbox


def leaks(file: str, port: int) -> list[str]:
    """Try what the sandbox must forbid; return what succeeded."""
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
    import ctypes  # noqa: PLC0415 - not in the process that only loads this file

    libc = ctypes.CDLL(None, use_errno=True)
    segment = libc.shmget(IPC_PRIVATE, 1, 0o600)
    if segment < 0:
        raise OSError(ctypes.get_errno(), "shmget")
    libc.shmctl(segment, IPC_RMID, None)


# Streams


class StandardStreams:
    """The standard streams; what a cell does to them ends with the cell."""

    def __init__(self) -> None:
        self._originals = [os.dup(number) for number in range(3)]
        self._own: tuple[TextIO, ...] = ()
        self.renew()

    def renew(self) -> None:
        """Flush the streams and reopen them."""
        before = (*self._own, sys.stdout, sys.stderr)
        for number, original in enumerate(self._originals):
            os.dup2(original, number)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stdout, sys.stderr = self._own = _text(1), _text(2)
        for stream in before:
            _flush(stream)

    def flush(self) -> None:
        for stream in self._own:
            _flush(stream)


def _flush(stream: TextIO | None) -> None:
    with suppress(ValueError):  # a cell has closed it, or its file
        if stream is not None:
            stream.flush()


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


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
