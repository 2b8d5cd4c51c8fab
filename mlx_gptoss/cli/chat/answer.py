"""Turn the events of one answer into parts to display.

Reasoning is dimmed, and folded to one line when it ends; answers and preambles are
Markdown; calls are shown with their results. Everything is kept, so that folded text
can be shown again. Knows events and formatting; knows no keys and no output stream.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.text import Text

from mlx_gptoss.cli.chat.layout import clean, dim
from mlx_gptoss.cli.chat.markdown import CodeLines, MarkdownStream, OutputPart, joined
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

FOLD, SHOW, HIDE = "fold", "show", "hide"
REASONING = (FOLD, SHOW, HIDE)
RESULT_LINES = 6  # shown of a tool's result
THOUGHT_LINES = 5  # shown of running reasoning
# Characters that can disguise text: controls, and marks that change direction.
DECEIVING = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2060-\u2069\ufeff]"
)


@dataclass
class ReasoningBlock:
    """One block of reasoning."""

    text: str = ""
    began: float = 0.0
    seconds: float | None = None  # until it was over

    @property
    def summary(self) -> str:
        words = len(self.text.split())
        size = "1 word" if words == 1 else f"{words:,} words"
        return f"▸ Reasoned for {self.seconds or 0:.1f} s, {size}"


@dataclass
class AnswerView:
    """The display of one turn: `take` finished parts; `rest` may still change."""

    reasoning: str = FOLD
    clock: Callable[[], float] = monotonic
    answer: str = ""
    done: Done | None = None
    called: ToolCall | None = None  # the last one shown
    whole: list[OutputPart] = field(
        default_factory=list
    )  # reasoning and results, unfolded
    _finished: list[OutputPart] = field(default_factory=list)
    _thought: ReasoningBlock | None = None
    _stream: MarkdownStream | None = None
    _kind: type | None = None  # of the open stream
    _calling: str = ""  # the tool whose result is pending

    def show(self, event: Event) -> None:
        """Add an event."""
        if isinstance(event, Reasoning):
            self._think(event.text)
        elif isinstance(event, Answer | Preamble):
            self._say(type(event), event.text)
        elif isinstance(event, ToolCall):
            self._call(event.name, event.arguments)
            self.called = event
        elif isinstance(event, ToolCallFailed):
            self._call(event.name, event.text)
            self._result(event.problem)
        elif isinstance(event, ToolResult):
            self._result(event.text)
        elif isinstance(event, Done):
            self.done = event
            self.end()

    def end(self) -> None:
        """Finish open parts: no more events follow."""
        if self._thought is not None:
            self._close_thought(self._thought)
        if self._stream is not None:
            self._finished += self._stream.finish()
        self._thought = self._stream = self._kind = None

    def note(self, text: str) -> None:
        """Add a dimmed note."""
        self.end()
        self._finished.append(OutputPart(dim(text)))

    def decide(self, call: ToolCall, text: str) -> None:
        """Show the decision about a call below it."""
        self.end()
        if call != self.called:  # several are running: name it again
            self._call(call.name, call.arguments)
            self.called = call
        part = OutputPart(dim(f"  ├ {text}"), goes_on=True)
        self._finished.append(part)
        self.whole.append(part)

    def take(self) -> list[OutputPart]:
        """Return the parts finished since the last call."""
        taken, self._finished = self._finished, []
        return joined(taken)

    def rest(self) -> list[OutputPart]:
        """Return the unfinished parts, as they look now."""
        if self._thought is not None and self.reasoning != HIDE:
            last = None if self.reasoning == SHOW else THOUGHT_LINES
            return [OutputPart(ReasoningView(self._thought.text, last))]
        return self._stream.rest() if self._stream is not None else []

    @property
    def thinking(self) -> bool:
        """Whether there is running reasoning that can be unfolded."""
        return self._thought is not None and self.reasoning == FOLD

    @property
    def activity(self) -> str:
        """A word or two for what the model is doing."""
        if self._thought is not None:
            return "Reasoning"
        if self._stream is not None:
            return "Writing"
        return f"Running {self._calling}" if self._calling else "Reading"

    def unfold(self) -> None:
        """Show the current and all following reasoning in full."""
        self.reasoning = SHOW if self.reasoning == FOLD else FOLD

    def _think(self, text: str) -> None:
        if self._thought is None:
            self.end()
            self._thought = ReasoningBlock(began=self.clock())
        self._thought.text += clean(text)

    def _close_thought(self, thought: ReasoningBlock) -> None:
        thought.seconds = self.clock() - thought.began
        text = thought.text.strip("\n")
        if not text.strip():
            return
        whole = OutputPart(ReasoningView(text))
        self.whole.append(whole)
        if self.reasoning == SHOW:
            self._finished.append(whole)
        elif self.reasoning == FOLD:
            self._finished.append(OutputPart(dim(thought.summary)))

    def _say(self, kind: type, text: str) -> None:
        if self._stream is None or self._kind is not kind:
            self.end()
            self._stream, self._kind = MarkdownStream(), kind
        if kind is Answer:
            self.answer += text
        self._finished += self._stream.feed(clean(text))

    def _call(self, name: str, arguments: str) -> None:
        self.end()
        self._calling = visible(name)
        part = OutputPart(call_line(name, arguments))
        self._finished.append(part)
        self.whole.append(part)

    def _result(self, text: str) -> None:
        self.end()
        self._calling = ""
        lines = clean(text).rstrip("\n").split("\n")
        self.whole.append(OutputPart(_under(lines), goes_on=True))
        shown = lines[:RESULT_LINES]
        if len(lines) > RESULT_LINES:
            shown.append(f"… {len(lines) - RESULT_LINES} more lines, /reasoning")
        self._finished.append(OutputPart(_under(shown), goes_on=True))


def call_line(name: str, arguments: str) -> Group:
    """Format a call so that hidden characters cannot disguise what it does."""
    head = Text.assemble(("● ", "green"), (visible(name), "bold"), overflow="fold")
    try:
        values = json.loads(arguments)
    except ValueError:
        values = None
    if isinstance(values, dict):
        pairs = (f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in values.items())
        head.append(visible(f"({', '.join(pairs)})"))
        return Group(head)
    code = visible(arguments).rstrip("\n")
    return Group(head, CodeLines(code, "python", 0, code.count("\n") + 1, named=False))


def visible(text: str) -> str:
    """Replace control and invisible characters by their codes."""
    return DECEIVING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


@dataclass(frozen=True)
class ReasoningView:
    """Dimmed reasoning beside a bar, or only its last lines."""

    text: str
    last: int | None = None

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        kept = self.text.split("\n")[-(self.last or 0) :]  # each is one line or more
        text = Text("\n".join(kept), style="dim", overflow="fold")
        lines = text.wrap(console, max(1, options.max_width - 2))
        for line in list(lines)[-self.last :] if self.last else lines:
            yield Text.assemble(("│ ", "dim"), line)


def _under(lines: list[str]) -> Group:
    """Indent lines below a call; the first has an elbow."""
    marks = ["  └ ", *["    "] * (len(lines) - 1)]
    pairs = zip(marks, lines, strict=True)
    return Group(*(dim(mark + line) for mark, line in pairs))
