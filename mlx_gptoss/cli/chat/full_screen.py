"""The interface for a terminal: rendered answers above, an editor below."""

import sys
from collections.abc import Callable, Generator, Iterator
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from rich.text import Text

from mlx_gptoss.cli.chat.answer import AnswerView
from mlx_gptoss.cli.chat.approval import NO
from mlx_gptoss.cli.chat.interface import ShownAnswer
from mlx_gptoss.cli.chat.layout import ScreenLayout, clean
from mlx_gptoss.cli.chat.live_answer import LiveAnswer
from mlx_gptoss.cli.chat.markdown import MarkdownBlocks, OutputPart
from mlx_gptoss.cli.chat.pastes import shortened
from mlx_gptoss.cli.chat.prompt import GOES_ON, MARK, MessagePrompt
from mlx_gptoss.cli.chat.typed_ahead import TypedAhead
from mlx_gptoss.cli.input_lines import AGAIN_LEAVES
from mlx_gptoss.cli.terminal import note
from mlx_gptoss.harmony.events import Done

if TYPE_CHECKING:
    from mlx_gptoss.engine.prompt_progress import PromptProgress
    from mlx_gptoss.harmony.events import Event, ToolCall

AGAIN_SECONDS = 2.0  # a second Ctrl-C so soon after one that stopped an answer leaves


class FullInterface:
    """Prompts and answers in a terminal."""

    def __init__(
        self, *, reasoning: str, status: Callable[[], str], prompt: MessagePrompt | None
    ) -> None:
        self.interactive = prompt is not None
        self.reasoning = reasoning
        self.layout = ScreenLayout()
        self._status = status
        self._prompt = prompt  # None where stdin is a pipe
        self._turn: LiveAnswer | None = None
        self._view: AnswerView | None = None
        self._typed = TypedAhead(prompt.pastes if prompt is not None else None)
        self._interrupted = -inf  # when Ctrl-C stopped an answer

    def messages(self) -> Iterator[str]:
        """Yield typed messages, until Ctrl-D, or Ctrl-C twice."""
        assert self._prompt is not None
        warned = False
        while True:
            if (text := self._typed.next_message()) is not None:
                self.echo(text)
                self._prompt.remember(text)
                yield text
                continue
            print()
            try:
                text = self._prompt.read(
                    self._typed.take_draft(), status=self._status, recall=self.recall
                )
            except KeyboardInterrupt:
                soon = monotonic() - self._interrupted < AGAIN_SECONDS
                if (warned or soon) and not self._prompt.unsent:
                    raise
                warned = True
                note(AGAIN_LEAVES)
            except EOFError:
                return
            else:
                warned = False
                if text.strip():
                    yield text.strip()

    def show(self, events: "Generator[Event]", stop: Callable[[], None]) -> ShownAnswer:
        """Show a turn while handling keys."""
        view = self._view = AnswerView(self.reasoning)
        turn = self._turn = LiveAnswer(
            view, self.layout, typed=self._typed, stop=stop, status=self._status
        )
        try:
            turn.run(events)
        finally:
            self._turn = None
        if turn.stopped:
            self._typed.take_back()
        if turn.interrupts:
            self._interrupted = monotonic()
        stats = view.done.stats if isinstance(view.done, Done) else None
        return ShownAnswer(view.answer, stats, stopped=turn.stopped)

    def show_progress(self, progress: "PromptProgress") -> None:
        """Show in the line of the running answer how its prompt is read."""
        if self._turn is not None:
            self._turn.progress = progress

    def ask(self, call: "ToolCall") -> str:
        """Ask below the running answer."""
        return self._turn.ask(call) if self._turn else NO

    def compose(self, text: str) -> str | None:
        """Let the user edit a text; return None if cancelled."""
        assert self._prompt is not None
        try:
            text = self._prompt.read(text, status=self._status, recall=self.recall)
        except (KeyboardInterrupt, EOFError):
            return None
        return text.strip() or None

    def recall(self) -> None:
        whole = self._view.whole if self._view else []
        if whole:
            self._print(whole)
        else:
            note("There was no reasoning")

    def replay(self, question: str, answer: str) -> None:
        self.echo(question)
        self._print([OutputPart(MarkdownBlocks(clean(answer)))])

    def echo(self, text: str) -> None:
        lines = ("\n" + GOES_ON).join(shortened(clean(text).split("\n")))
        self._print(
            [OutputPart(Text.assemble((MARK, "bold cyan"), lines, overflow="fold"))]
        )

    def give_back(self, text: str) -> None:
        self._typed.take_back(text)

    def _print(self, parts: list[OutputPart]) -> None:
        columns = self.layout.console.size.width
        sys.stdout.write("\n".join([*self.layout.lines(parts, columns), ""]))
        sys.stdout.flush()
