"""Where the user's lines come from: a terminal with editing, or a pipe."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

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
    """Lines typed at a prompt, with editing and history in memory only."""

    interactive = True

    def __iter__(self) -> Iterator[str]:
        from prompt_toolkit import PromptSession

        session: PromptSession[str] = PromptSession()
        while True:
            try:
                yield session.prompt(PROMPT)
            except KeyboardInterrupt:
                note("Ctrl-D leaves")
            except EOFError:
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
