"""Read the user's lines from a terminal or a pipe."""

import os
import sys
import termios
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import IO, Protocol

import click

from mlx_gptoss.cli.terminal import note
from mlx_gptoss.errors import PromptError

PROMPT = "> "
SETTLE = 0.5  # seconds; a line that ends sooner was started before the question
CHUNK = 4096
STDIN = "the text on stdin"
AGAIN_LEAVES = "Ctrl-C again leaves; so does Ctrl-D"


class Keyboard:
    """Read answers from the terminal on stdin, as whole lines.

    Text typed, or started, before a question appeared does not answer it: it is kept
    in `later`, and `begun` is its last, unfinished line.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.later: deque[str] = deque()
        self.begun = ""
        self._clock = clock

    def answer(self, question: str) -> str:
        """Ask on stderr; return the line typed after that, or "" at end of input."""
        while True:
            self._keep(typed_ahead())
            click.echo(question, nl=False, err=True)
            asked = self._clock()
            line = sys.stdin.readline()
            if not line:
                return ""
            if not self.begun and self._clock() >= asked + SETTLE:
                return line
            self.keep_for_later(line)

    def keep_for_later(self, line: str) -> None:
        """Keep a line that was typed at a question but does not answer it."""
        self._keep(line.rstrip("\n") + "\n")
        note("Kept for your next message")

    def _keep(self, text: str) -> None:
        *lines, self.begun = (self.begun + text).split("\n")
        self.later.extend(lines)


def typed_ahead() -> str:
    """Return text typed at the terminal that nobody has read yet."""
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    mode = termios.tcgetattr(terminal)
    mode[3] &= ~termios.ICANON  # to read an unfinished line, too
    mode[6][termios.VMIN] = mode[6][termios.VTIME] = 0
    termios.tcsetattr(terminal, termios.TCSANOW, mode)
    try:
        data = b"".join(iter(lambda: os.read(terminal, CHUNK), b""))
    finally:
        termios.tcsetattr(terminal, termios.TCSANOW, before)
    return data.decode(sys.stdin.encoding, "replace")


def confirm(question: str) -> None:
    """Ask before deleting something for good; ignore text typed earlier."""
    if sys.stdin.isatty():
        termios.tcflush(sys.stdin, termios.TCIFLUSH)
    click.confirm(question, abort=True, err=True)


class Lines(Protocol):
    """An iterable of lines; `interactive` when a person types them."""

    interactive: bool
    keyboard: Keyboard

    def __iter__(self) -> Iterator[str]: ...


class PipedLines:
    """Lines of stdin as they arrive; an interrupt ends the program."""

    interactive = False

    def __init__(self) -> None:
        self.keyboard = Keyboard()

    def __iter__(self) -> Iterator[str]:
        with text_expected():
            while line := self._next():
                yield line

    def _next(self) -> str:
        keyboard = self.keyboard
        if keyboard.later:
            return f"{keyboard.later.popleft()}\n"
        begun, keyboard.begun = keyboard.begun, ""
        return begun + sys.stdin.readline()


class TypedLines:
    """Lines typed at a plain terminal, with the system's own line editing."""

    interactive = True

    def __init__(self) -> None:
        self.keyboard = Keyboard()

    def __iter__(self) -> Iterator[str]:
        keyboard = self.keyboard
        warned = False
        while True:
            if keyboard.later:
                click.echo(f"{PROMPT}{keyboard.later[0]}")
                yield keyboard.later.popleft()
                continue
            begun, keyboard.begun = keyboard.begun, ""
            try:
                line = begun + input(PROMPT + begun)
            except KeyboardInterrupt:
                if warned:
                    raise
                warned = True
                click.echo(err=True)
                note(AGAIN_LEAVES)
            except EOFError:
                click.echo(err=True)
                return
            else:
                warned = False
                yield line


def read_all() -> str:
    """Return all of stdin."""
    with text_expected():
        return sys.stdin.read()


def read_file(file: IO[str]) -> str:
    """Return the whole text of a file argument, or of stdin."""
    named = file.name not in ("-", "<stdin>")
    with text_expected(f"`{file.name}`" if named else STDIN):
        return file.read()


@contextmanager
def text_expected(what: str = STDIN) -> Iterator[None]:
    """Raise PromptError with the reason if the input is not text."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise PromptError(
            f"{what} is not {error.encoding} text (byte {error.start} is invalid): "
            "convert it first, for example with `iconv`"
        ) from error


def open_lines() -> Lines:
    """Choose TypedLines if stdin and stdout are terminals, else PipedLines."""
    typed = sys.stdin.isatty() and sys.stdout.isatty()
    return TypedLines() if typed else PipedLines()
