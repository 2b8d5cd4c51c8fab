"""Show events in a terminal: answers on stdout, everything else dimmed on stderr.

Knows events and streams, not models. On a terminal, control characters are removed
from the model's text (they could move the cursor or rename the window); in a pipe or
a file the text is unchanged.
"""

import re
import shutil
import sys
from textwrap import TextWrapper
from typing import Any, TextIO

import click

from mlx_gptoss.cli.colours import coloured
from mlx_gptoss.cli.statistics import as_facts
from mlx_gptoss.harmony.events import (
    Answer,
    Done,
    Event,
    Preamble,
    Reasoning,
    ToolCall,
    ToolCallFailed,
    ToolResult,
)

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
DIM, PLAIN = "\x1b[2m", "\x1b[0m"


def note(text: str) -> None:
    """Write a dimmed line to stderr, on a terminal wrapped between words."""
    shown = _wrapped(text) if sys.stderr.isatty() else text
    click.echo(
        f"{DIM}{shown}{PLAIN}" if coloured(sys.stderr) else shown, err=True, color=True
    )


def _wrapped(text: str) -> str:
    width = max(20, shutil.get_terminal_size().columns - 1)
    wrapper = TextWrapper(width, replace_whitespace=False, break_long_words=False)
    return "\n".join(wrapper.fill(line) for line in text.split("\n"))


class Screen:
    """Show events as they arrive, with answer, reasoning and preambles apart."""

    def __init__(self, *, hide_reasoning: bool = False) -> None:
        self.hide_reasoning = hide_reasoning
        self._stream: TextIO | None = None  # of the open section
        self._kind: type | None = None  # of its events
        self._dim = False
        self._ended = True  # whether its last line is complete

    def show(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, Answer):
            self._write(event, event.text, sys.stdout)
        elif isinstance(event, Reasoning) and not self.hide_reasoning:
            self._write(event, event.text, sys.stderr, dim=True)
        elif isinstance(event, Preamble):
            self._write(event, event.text, sys.stderr)
        elif isinstance(event, ToolCall):
            self._line(event, f"{event.name}({event.arguments})")
        elif isinstance(event, ToolCallFailed):
            self._line(event, f"{event.name}({event.text}): {event.problem}")
        elif isinstance(event, ToolResult):
            self._line(event, f"-> {event.text}")

    def end(self) -> None:
        """Close the open section, so that the next output starts on its own line."""
        if self._stream is None:
            return
        plain = PLAIN if self._dim else ""
        click.echo(plain, file=self._stream, nl=not self._ended, color=True)
        self._stream = self._kind = None

    def _line(self, event: Event, text: str) -> None:
        self._write(event, text, sys.stderr, dim=True)
        self.end()

    def _write(
        self, event: Event, text: str, stream: TextIO, *, dim: bool = False
    ) -> None:
        if not text:
            return
        opening = ""
        if self._kind is not type(event):
            self.end()
            self._stream, self._kind = stream, type(event)
            self._dim = dim and coloured(stream)
            opening = DIM if self._dim else ""
        shown = CONTROL.sub("", text) if stream.isatty() else text
        click.echo(opening + shown, file=stream, nl=False, color=True)
        self._ended = shown.endswith("\n")


class JsonTranscript:
    """Collect events into one JSON object, for `--json`."""

    def __init__(self) -> None:
        self._texts = {"answer": "", "reasoning": "", "preamble": ""}
        self._calls: list[dict[str, str]] = []
        self._done: Done | None = None

    def show(self, event: Event) -> None:
        """Add an event."""
        if isinstance(event, Answer | Reasoning | Preamble):
            self._texts[type(event).__name__.lower()] += event.text
        elif isinstance(event, ToolCall):
            call = {"id": event.id, "name": event.name, "arguments": event.arguments}
            self._calls.append(call)
        elif isinstance(event, Done):
            self._done = event

    def as_dict(self) -> dict[str, Any]:
        """Return the texts, the tool calls, and how the answer ended."""
        done = self._done
        return {
            **self._texts,
            "tool_calls": self._calls,
            "finish_reason": done.finish_reason if done else None,
            "stats": as_facts(done.stats) if done and done.stats else None,
        }
