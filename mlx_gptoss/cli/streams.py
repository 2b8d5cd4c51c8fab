"""Standard streams that work even if the caller closed or broke them.

A closed stream acts as an empty file. A failed write to stdout raises OutputError
once; a failed write to stderr is dropped, because nobody could be told and the answer
must not be lost for it. Knows nothing of commands.
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
    """Writing to stdout failed."""


class StandardStream(io.FileIO):
    """The target of a standard stream. After an error it discards what is written.

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
    """Stop raising OutputError, because the terminal may be gone."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, StandardStream):
        raw.needed = False


@contextmanager
def standard_streams() -> Iterator[None]:
    """Install streams that work; keep those that a caller replaced."""
    before = sys.stdin, sys.stdout, sys.stderr
    open_closed()
    if sys.stdin is sys.__stdin__ and isinstance(sys.stdin, TextIOWrapper):
        # Without a locale, invalid bytes would become lone surrogates.
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
    """Return a text stream that writes `?` for characters its encoding lacks."""
    return TextIOWrapper(
        io.BufferedWriter(StandardStream(number, needed=needed)),
        like.encoding,
        errors="replace",
        line_buffering=like.isatty() or number == STDERR,
    )


def open_closed() -> None:
    """Open an empty file for each closed standard stream, as after `<&-` in a shell.

    Otherwise the next file that is opened would take its number, here or in a child
    process, and output would be written into that file.
    """
    for number in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
            assert opened == number, f"{opened=} {number=}"
            os.set_inheritable(opened, True)
    names = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
    for number, (name, mode) in enumerate(names):
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
