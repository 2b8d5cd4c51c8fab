"""The line-by-line interface, for pipes and simple terminals.

Answers are streamed to stdout, everything else to stderr; no colours in a pipe.
"""

import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING

from mlx_gptoss.cli.chat.approval import (
    ALWAYS,
    NEVER,
    NO,
    ONCE,
    asks_twice,
    outcome,
)
from mlx_gptoss.cli.chat.interface import ShownAnswer
from mlx_gptoss.cli.input_lines import Lines
from mlx_gptoss.cli.reading import ReadingLine
from mlx_gptoss.cli.terminal import CONTROL, Screen, note
from mlx_gptoss.harmony.events import Answer, Done

if TYPE_CHECKING:
    from mlx_gptoss.harmony.events import Event, ToolCall

FIRST = {"y": ONCE, "yes": ONCE, "o": ONCE, "once": ONCE, "n": NO, "no": NO, "": NO}
FIRST |= {"a": ALWAYS, "always": ALWAYS, "v": NEVER, "never": NEVER}
SECOND = FIRST | {"y": ALWAYS, "yes": ALWAYS}
SHOWN = 300  # characters of a call in the question


class PlainInterface:
    """Read lines, write text."""

    def __init__(self, lines: Lines, *, reasoning: str) -> None:
        self.lines = lines
        self.interactive = lines.interactive
        self.reasoning = reasoning
        self._reading = ReadingLine()
        self.show_progress = self._reading.update

    def messages(self) -> Iterator[str]:
        """Yield the lines that are not empty."""
        for line in self.lines:
            if line.strip():
                yield line.strip()

    def show(self, events: "Generator[Event]", stop: Callable[[], None]) -> ShownAnswer:
        """Show a turn; Ctrl-C ends it and keeps what has arrived."""
        screen = Screen(hide_reasoning=self.reasoning == "hide")
        answer, stats = "", None
        try:
            with closing(self._reading.watch(events)) as shown:
                for event in shown:
                    screen.show(event)
                    if isinstance(event, Answer):
                        answer += event.text
                    elif isinstance(event, Done):
                        stats = event.stats
        except KeyboardInterrupt:
            if not self.interactive:
                raise
            return ShownAnswer(answer, stats, stopped=True)
        finally:
            screen.end()
        return ShownAnswer(answer, stats)

    def ask(self, call: "ToolCall") -> str:
        """Ask on stderr; refuse if there is no terminal."""
        if not sys.stdin.isatty():
            note(
                f"{call.name} was not run: stdin is no terminal to ask at; "
                "`--approve allow` runs calls unasked"
            )
            return NO
        arguments = CONTROL.sub("", call.arguments)
        shown = arguments if len(arguments) <= SHOWN else arguments[:SHOWN] + "…"
        question = f"Run {call.name}({shown})? [y]es, [n]o, [a]lways, ne[v]er: "
        choice = self._choice(question, FIRST)
        if choice == ALWAYS and asks_twice(call.name):
            again = (
                f"Run {call.name} without asking until you leave? [y]es, [o]nce, [n]o: "
            )
            choice = self._choice(again, SECOND)
        note(f"({outcome(choice, call.name)})")
        return choice

    def _choice(self, question: str, answers: Mapping[str, str]) -> str:
        """Ask until an answer is given; keep other lines for later."""
        keyboard = self.lines.keyboard
        while line := keyboard.answer(question):
            said = line.strip().lower()
            if said in answers:
                return answers[said]
            keyboard.keep_for_later(line)
        return NO

    def compose(self, text: str) -> str | None:
        return None

    def recall(self) -> None:
        note("Here reasoning is shown as it arrives")

    def replay(self, question: str, answer: str) -> None:
        """Do nothing: earlier turns are not printed again."""

    def echo(self, text: str) -> None:
        """Do nothing: the message is on the command line."""

    def give_back(self, text: str) -> None:
        """Do nothing: the message is on the screen or in the user's file."""
