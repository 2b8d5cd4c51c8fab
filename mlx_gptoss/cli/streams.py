"""The standard streams of a command, whatever its caller made of them.

A stream that is closed is an empty file. An answer that cannot be written is an
OutputError, once; a note on stderr that cannot be written is dropped: nobody could be
told, and the answer must not be lost for it. Knows nothing of commands.
"""

import codecs
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any, TextIO

STDIN, STDOUT, STDERR = 0, 1, 2


class OutputError(OSError):
    """What goes to stdout cannot be written."""


class StandardStream(io.FileIO):
    """Where a standard stream goes. After an error it takes everything and writes none.

    `needed` raises that error, else nobody hears of it.
    """

    def __init__(self, number: int, *, needed: bool) -> None:
        super().__init__(number, "w", closefd=False)
        self.needed = needed
        self._broken = False

    def write(self, data: Any, /) -> int:
        while not self._broken:
            try:
                written = super().write(data)
            except OSError as error:
                self._broken = True
                if self.needed:
                    raise OutputError(error.errno, error.strerror) from error
            else:
                if written is not None:
                    return written
                select.select([], [self], [])  # its reader made it one that never waits
        return memoryview(data).nbytes


def expect_no_reader() -> None:
    """Raise no OutputError from here on: the terminal may have gone away."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, StandardStream):
        raw.needed = False


@contextmanager
def standard_streams() -> Iterator[None]:
    """Give the process streams that work; streams of a caller's own stay."""
    before = sys.stdin, sys.stdout, sys.stderr
    open_closed()
    if sys.stdin is sys.__stdin__ and isinstance(sys.stdin, TextIOWrapper):
        # Without a locale, bytes that are no text would go on as half characters.
        plain = codecs.lookup(sys.stdin.encoding).name == "ascii"
        encoding = "utf-8" if plain else sys.stdin.encoding
        sys.stdin.reconfigure(encoding=encoding, errors="strict")
    if sys.stdout is sys.__stdout__:
        sys.stdout = text_output(sys.stdout, STDOUT, needed=True)
    if sys.stderr is sys.__stderr__:
        sys.stderr = text_output(sys.stderr, STDERR, needed=False)
    try:
        yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = before


def text_output(like: TextIO, number: int, *, needed: bool) -> TextIOWrapper:
    """Write text to a standard stream; `?` stands for what its encoding has not."""
    return TextIOWrapper(
        io.BufferedWriter(StandardStream(number, needed=needed)),
        like.encoding,
        errors="replace",
        line_buffering=like.isatty() or number == STDERR,
    )


def open_closed() -> None:
    """Put an empty file where a standard stream was closed, as by `<&-` in a shell.

    Else the next file that is opened would take its place, here or in a child, and
    what is printed would be written into that.
    """
    for number in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest that is free
            assert opened == number, f"{opened=} {number=}"
            os.set_inheritable(opened, True)
    names = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
    for number, (name, mode) in enumerate(names):
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
