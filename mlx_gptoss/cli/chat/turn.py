"""One answer on the screen: the model works in a thread, keys and painting here.

Esc or Ctrl-C stops the answer and what came stays; the third Ctrl-C ends the program
even if the model does not listen. Ctrl-O unfolds reasoning. Calls that need approval
are asked about between two frames. What is typed besides is kept for the next prompt.
"""

import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from queue import SimpleQueue
from time import monotonic
from types import FrameType

from prompt_toolkit.key_binding.key_processor import KeyPress
from prompt_toolkit.keys import Keys
from rich.text import Text

from mlx_gptoss.cli.chat.answer import AnswerView, call_line, visible
from mlx_gptoss.cli.chat.approval import KEYS, NO, OFFER
from mlx_gptoss.cli.chat.keys import KeyReader, typed_text
from mlx_gptoss.cli.chat.layout import Layout, dim
from mlx_gptoss.cli.chat.markdown import Part
from mlx_gptoss.cli.chat.tail import Tail
from mlx_gptoss.harmony.events import Event, ToolCall

FRAME = 0.05  # seconds between two looks at keys and events
SHARE = 4  # painting takes at most one part in so many of the time
GRACE = 0.5  # seconds: what is typed when a question comes up was not meant for it
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
TURNS_PER_SECOND = 10


@dataclass(frozen=True)
class Ended:
    """The model has nothing more to say, or failed."""

    error: BaseException | None = None


@dataclass
class Question:
    """A call that waits for an approval."""

    call: ToolCall
    answer: str = NO
    answered: threading.Event = field(default_factory=threading.Event)


class Turn:
    """Shows one answer; `run` it in the main thread."""

    def __init__(
        self,
        view: AnswerView,
        layout: Layout,
        *,
        stop: Callable[[], None],
        status: Callable[[], str],
    ) -> None:
        self.view = view
        self.layout = layout
        self.typed = ""
        self.stops = 0  # how often the user asked to stop
        self._stop = stop
        self._status = status
        self._came: SimpleQueue[Event | Question | Ended] = SimpleQueue()
        self._question: Question | None = None
        self._ended: Ended | None = None
        self._began = monotonic()
        self._due = 0.0  # when to paint next
        self._answers_from = 0.0  # when keys are answers to a question

    def run(self, events: Generator[Event]) -> None:
        """Show `events` until they end. Raises what they raise."""
        before = signal.signal(signal.SIGINT, self._interrupt)
        worker = threading.Thread(
            target=self._work, args=(events,), daemon=True, name="answer"
        )
        try:
            with KeyReader() as keys, Tail(sys.stdout) as tail:
                worker.start()
                while self._ended is None:
                    self._frame(keys, tail)
                self.view.end()
                tail.paint(self._lines(self.view.take(), tail), [])
        finally:
            signal.signal(signal.SIGINT, before)
            if self._ended is None:  # it is left early: let the model rest
                self._stop()
                self._answer(NO)
        if self._ended and self._ended.error is not None:
            raise self._ended.error

    def ask(self, call: ToolCall) -> str:
        """Ask about a call, from the thread of the answer."""
        asked = Question(call)
        self._came.put(asked)
        asked.answered.wait()
        return asked.answer

    def stop(self) -> None:
        """Stop the answer; again and again, as its start forgets an earlier stop."""
        self.stops = max(self.stops, 1)
        self._stop()

    def _work(self, events: Generator[Event]) -> None:
        error: BaseException | None = None
        try:
            with closing(events):
                for event in events:
                    self._came.put(event)
        except BaseException as found:  # raised again in the main thread
            error = found
        self._came.put(Ended(error))

    def _frame(self, keys: KeyReader, tail: Tail) -> None:
        for press in keys.wait(FRAME):
            self._press(press)
        while not self._came.empty() and self._question is None:
            self._take(self._came.get())
        if self.stops:
            self._stop()
        now = monotonic()
        if now >= self._due or self._question:
            tail.paint(self._lines(self.view.take(), tail), self._below(tail, now))
            took = monotonic() - now
            self._due = now + max(FRAME, SHARE * took)

    def _take(self, came: Event | Question | Ended) -> None:
        if isinstance(came, Ended):
            self._ended = came
        elif isinstance(came, Question):
            self._question = came
            self._answers_from = monotonic() + GRACE
            if self.stops:
                self._answer(NO)
        else:
            self.view.show(came)

    def _press(self, press: KeyPress) -> None:
        choice = KEYS.get(press.key.lower())
        if press.key == Keys.Escape:
            self.stop()
            self._answer(NO)
        elif press.key == Keys.ControlO:
            self.view.unfold()
        elif self._question and choice and monotonic() >= self._answers_from:
            self._answer(choice)
        else:
            self._type(press)

    def _type(self, press: KeyPress) -> None:
        """Keep what is typed; who types is not answering."""
        self._answers_from = monotonic() + GRACE
        if press.key in (Keys.Backspace, Keys.ControlH):
            self.typed = self.typed[:-1]
        else:
            self.typed += typed_text(press)

    def _answer(self, choice: str) -> None:
        asked, self._question = self._question, None
        if asked is not None:
            asked.answer = choice
            asked.answered.set()

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        self.stops += 1
        if self.stops > 2:
            raise KeyboardInterrupt
        self._stop()
        self._answer(NO)

    def _lines(self, parts: list[Part], tail: Tail) -> list[str]:
        return self.layout.lines(parts, tail.size.columns)

    def _below(self, tail: Tail, now: float) -> list[str]:
        """What may still change: the unfinished text, then what goes on."""
        columns = tail.size.columns
        status = self.layout.content(on_one_line(dim(self._status())), columns)
        if self._question is not None:
            call = self._question.call
            other = call != self.view.called  # of several, say which one is meant
            shown = [Part(call_line(call.name, call.arguments))] if other else []
            return [*self._lines([*shown, Part(offer(call))], tail), *status]
        lines = self._lines(self.view.rest(), tail)
        return [
            *lines[-max(1, tail.room - 3) :],
            "",
            *self.layout.content(self._activity(now), columns),
            *status,
        ]

    def _activity(self, now: float) -> Text:
        seconds = now - self._began
        mark = SPINNER[int(seconds * TURNS_PER_SECOND) % len(SPINNER)]
        what = "Stopping" if self.stops else self.view.activity
        hint = "" if self.stops else "  Esc stops"
        if not self.stops and self.view.thinking:
            hint += ", Ctrl-O unfolds"
        return on_one_line(
            Text.assemble((mark, "cyan"), f" {what} {seconds:.0f} s", (hint, "dim"))
        )


def on_one_line(text: Text) -> Text:
    """Cut a text that is too long."""
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def offer(call: ToolCall) -> Text:
    """Ask about a call, with the keys that answer."""
    text = Text.assemble(("Run ", "bold"), (visible(call.name), "bold"), ("?", "bold"))
    for before, key, after in OFFER:
        text.append(f"  {before}")
        text.append(f"[{key}]", "bold cyan")
        text.append(after)
    return text
