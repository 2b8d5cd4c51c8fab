"""Where the user's lines come from: a terminal, or a pipe."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import click

from mlx_gptoss.cli.terminal import note
from mlx_gptoss.errors import PromptError

PROMPT = "> "


class Lines(Protocol):
    """An iterable of lines; `interactive` when a person types them."""

    interactive: bool

    def __iter__(self) -> Iterator[str]: ...


class PipedLines:
    """Lines of stdin as they come; an interrupt ends the program."""

    interactive = False

    def __iter__(self) -> Iterator[str]:
        with text_expected():
            yield from iter(sys.stdin.readline, "")


class TypedLines:
    """Lines typed at a terminal that only prints; the system's own editing."""

    interactive = True

    def __iter__(self) -> Iterator[str]:
        while True:
            try:
                yield input(PROMPT)
            except KeyboardInterrupt:
                click.echo(err=True)
                note("Ctrl-D leaves")
            except EOFError:
                click.echo(err=True)
                return


def read_all() -> str:
    """Return all of stdin."""
    with text_expected():
        return sys.stdin.read()


@contextmanager
def text_expected() -> Iterator[None]:
    """Name the fault when stdin is not text."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise PromptError(
            f"what comes on stdin is not {error.encoding} text (byte {error.start} "
            "cannot be read): convert it first, with `iconv` for one"
        ) from error


def open_lines() -> Lines:
    """Choose by whether a person sits at both ends."""
    typed = sys.stdin.isatty() and sys.stdout.isatty()
    return TypedLines() if typed else PipedLines()
