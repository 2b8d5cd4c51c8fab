"""The interface for a terminal: rendered answers above, an editor below."""

import sys
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING

from rich.text import Text

from mlx_gptoss.cli.chat.answer import AnswerView
from mlx_gptoss.cli.chat.approval import NO
from mlx_gptoss.cli.chat.interface import ShownAnswer
from mlx_gptoss.cli.chat.layout import ScreenLayout, clean
from mlx_gptoss.cli.chat.live_answer import LiveAnswer
from mlx_gptoss.cli.chat.markdown import MarkdownBlocks, OutputPart
from mlx_gptoss.cli.chat.prompt import GOES_ON, MARK, MessagePrompt
from mlx_gptoss.cli.terminal import note
from mlx_gptoss.harmony.events import Done

if TYPE_CHECKING:
    from mlx_gptoss.engine.prompt_progress import PromptProgress
    from mlx_gptoss.harmony.events import Event, ToolCall


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
        self._next = ""  # initial text of the next prompt

    def messages(self) -> Iterator[str]:
        """Yield typed messages, until Ctrl-D."""
        assert self._prompt is not None
        while True:
            begin, self._next = self._next, ""
            print()
            try:
                text = self._prompt.read(begin, status=self._status, recall=self.recall)
            except KeyboardInterrupt:
                note("Press Ctrl-D to leave")
            except EOFError:
                return
            else:
                if text.strip():
                    yield text.strip()

    def show(self, events: "Generator[Event]", stop: Callable[[], None]) -> ShownAnswer:
        """Show a turn while handling keys."""
        view = self._view = AnswerView(self.reasoning)
        turn = self._turn = LiveAnswer(
            view, self.layout, stop=stop, status=self._status
        )
        try:
            turn.run(events)
        finally:
            self._turn = None
            self._next = turn.draft.text.lstrip("\n")
        stats = view.done.stats if isinstance(view.done, Done) else None
        return ShownAnswer(view.answer, stats, stopped=turn.stops > 0)

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
        lines = ("\n" + GOES_ON).join(clean(text).split("\n"))
        self._print(
            [OutputPart(Text.assemble((MARK, "bold cyan"), lines, overflow="fold"))]
        )

    def give_back(self, text: str) -> None:
        self._next = "\n".join(one for one in (text, self._next) if one)

    def _print(self, parts: list[OutputPart]) -> None:
        columns = self.layout.console.size.width
        sys.stdout.write("\n".join([*self.layout.lines(parts, columns), ""]))
        sys.stdout.flush()
