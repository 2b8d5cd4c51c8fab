"""Show one answer while it is generated: the model in a thread, keys and screen here.

Esc or Ctrl-C stops the answer and keeps what has arrived; a second Ctrl-C ends the
program even if the model does not respond. Ctrl-O unfolds reasoning, Ctrl-Z suspends.
Approval questions are asked between two frames (see `question`); there Esc and Ctrl-C
mean no. Other typed text is shown below the answer (see `typed_ahead`): Enter keeps it
as the next message, the rest is for the next prompt.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from queue import SimpleQueue
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING

from prompt_toolkit.key_binding.key_processor import KeyPress
from prompt_toolkit.keys import Keys
from rich.text import Text

from mlx_gptoss.cli.chat.answer import AnswerView, call_line
from mlx_gptoss.cli.chat.approval import NO, outcome
from mlx_gptoss.cli.chat.keys import KeyReader
from mlx_gptoss.cli.chat.layout import ScreenLayout, dim, on_one_line
from mlx_gptoss.cli.chat.live_tail import LiveTail
from mlx_gptoss.cli.chat.markdown import OutputPart
from mlx_gptoss.cli.chat.question import ApprovalQuestion
from mlx_gptoss.cli.chat.typed_ahead import TypedAhead
from mlx_gptoss.cli.reading import reading_text
from mlx_gptoss.harmony.events import Event, ToolCall

if TYPE_CHECKING:
    from mlx_gptoss.engine.prompt_progress import PromptProgress

FRAME = 0.05  # seconds between two checks for keys and events
SHARE = 4  # at most this fraction of time is spent on painting
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
TURNS_PER_SECOND = 10


@dataclass(frozen=True)
class AnswerEnded:
    """The end of the event stream, with the exception if it failed."""

    error: BaseException | None = None


@dataclass
class PendingApproval:
    """A call waiting for approval, in the thread of the answer."""

    call: ToolCall
    answer: str = NO
    answered: threading.Event = field(default_factory=threading.Event)


class LiveAnswer:
    """Show one answer; call `run` in the main thread."""

    def __init__(
        self,
        view: AnswerView,
        layout: ScreenLayout,
        *,
        typed: TypedAhead,
        stop: Callable[[], None],
        status: Callable[[], str],
    ) -> None:
        self.view = view
        self.layout = layout
        self.typed = typed
        self.stopped = False  # by the user
        self.interrupts = 0  # how often Ctrl-C was pressed
        self.progress: PromptProgress | None = None  # of the prompt being read
        self._stop = stop
        self._status = status
        self._came: SimpleQueue[Event | PendingApproval | AnswerEnded] = SimpleQueue()
        self._asked: PendingApproval | None = None
        self._question: ApprovalQuestion | None = None  # of the question
        self._ended: AnswerEnded | None = None
        self._began = monotonic()
        self._due = 0.0  # when to paint next

    def run(self, events: Generator[Event]) -> None:
        """Show `events` until they end. Raises what they raise."""
        before = signal.signal(signal.SIGINT, self._interrupt)
        worker = threading.Thread(
            target=self._work, args=(events,), daemon=True, name="answer"
        )
        try:
            with KeyReader() as keys, LiveTail(sys.stdout) as tail:
                worker.start()
                while self._ended is None:
                    self._frame(keys, tail)
                self.view.end()
                tail.paint(self._lines(self.view.take(), tail), [])
        finally:
            signal.signal(signal.SIGINT, before)
            if self._ended is None:  # left early: stop the model
                self._stop()
                self._answer(NO)
        if self._ended and self._ended.error is not None:
            raise self._ended.error

    def ask(self, call: ToolCall) -> str:
        """Ask about a call; called from the thread of the answer."""
        asked = PendingApproval(call)
        self._came.put(asked)
        asked.answered.wait()
        return asked.answer

    def stop(self) -> None:
        """Stop the answer; repeated, because its start resets an earlier stop."""
        self.stopped = True
        self._stop()

    def _work(self, events: Generator[Event]) -> None:
        error: BaseException | None = None
        try:
            with closing(events):
                for event in events:
                    self._came.put(event)
        except BaseException as found:  # raised again in the main thread
            error = found
        self._came.put(AnswerEnded(error))

    def _frame(self, keys: KeyReader, tail: LiveTail) -> None:
        pressed = keys.wait(FRAME)
        if any(press.key == Keys.ControlZ for press in pressed):
            with tail.removed(), keys.released():
                os.kill(0, signal.SIGTSTP)  # the whole job, as a terminal does
        self._obey(pressed)
        while not self._came.empty() and self._asked is None:
            self._take(self._came.get())
        if self.stopped:
            self._stop()
            self._answer(NO)
        now = monotonic()
        if now >= self._due or self._question:
            tail.paint(self._lines(self.view.take(), tail), self._below(tail, now))
            took = monotonic() - now
            self._due = now + max(FRAME, SHARE * took)
            if self._question is not None:
                self._question.seen(now + took)

    def _take(self, came: Event | PendingApproval | AnswerEnded) -> None:
        if isinstance(came, AnswerEnded):
            self._ended = came
        elif isinstance(came, PendingApproval):
            self._asked = came
            self._question = ApprovalQuestion(came.call, self.typed.draft)
        else:
            self.view.show(came)

    def _obey(self, pressed: list[KeyPress]) -> None:
        """Handle keys; text answers a question or is for the next message."""
        if any(press.key == Keys.ControlO for press in pressed):
            self.view.unfold()
        texts = [one for one in pressed if one.key != Keys.ControlO]
        if self._question is None:
            texts = self.typed.type(texts)
        if any(press.key == Keys.Escape for press in texts):
            self.stop()
            self._answer(NO)
        if self._question is None:
            return
        texts = [one for one in texts if one.key != Keys.Escape]
        choice = self._question.look(texts, monotonic())
        if choice and not self.stopped:
            self._answer(choice)

    def _answer(self, choice: str) -> None:
        """Pass the decision to the call, and show it."""
        asked, self._asked, self._question = self._asked, None, None
        if asked is not None:
            self.view.decide(asked.call, outcome(choice, asked.call.name))
            asked.answer = choice
            asked.answered.set()

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        self.interrupts += 1
        if self.interrupts > 1:
            raise KeyboardInterrupt
        self.stop()

    def _lines(self, parts: list[OutputPart], tail: LiveTail) -> list[str]:
        return self.layout.lines(parts, tail.size.columns)

    def _below(self, tail: LiveTail, now: float) -> list[str]:
        """Return the lines that may still change: unfinished text, then the status."""
        columns = tail.size.columns
        status = self.layout.content(on_one_line(dim(self._status())), columns)
        if self._question is not None:
            call = self._question.call
            other = call != self.view.called  # several are pending: name this one
            shown = [OutputPart(call_line(call.name, call.arguments))] if other else []
            asked = [*shown, OutputPart(self._question.text())]
            drafted = self.typed.blocking_line(self.layout, columns)
            lines = [*self._lines(asked, tail), *drafted]
            fits = len(lines) + len(status) <= tail.room  # otherwise only the question
            return [*lines, *status] if fits else lines
        lines = self._lines(self.view.rest(), tail)
        typed = self.typed.lines(self.layout, columns)
        return [
            *lines[-max(1, tail.room - 3 - len(typed)) :],
            "",
            *self.layout.content(self._activity(now), columns),
            *typed,
            *status,
        ]

    def _activity(self, now: float) -> Text:
        seconds = now - self._began
        mark = SPINNER[int(seconds * TURNS_PER_SECOND) % len(SPINNER)]
        what = "Stopping" if self.stopped else self.view.activity
        hint = "" if self.stopped else "  Esc stops"
        reading = reading_text(self.progress)
        if not self.stopped and self.view.thinking:
            hint += ", Ctrl-O unfolds"
        if not self.stopped and self.typed.draft.shown.strip():
            hint += ", Enter sends it next"
        return on_one_line(
            Text.assemble(
                (mark, "cyan"),
                f" {what} {seconds:.0f} s",
                f": {reading}" if reading else "",
                (hint, "dim"),
            )
        )
