"""A whole turn as one value, built from its events.

    builder = ReplyBuilder()
    for event in chat.send("hello"):
        builder.add(event)
    builder.reply().answer

Knows events; nothing of models.
"""

from collections.abc import AsyncIterable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from mlx_gptoss.engine.outputs import CANCELLED, Statistics
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

FAILED = "error"  # finish reason of a Reply of `answer_all` without an answer
PARAGRAPH_BREAK = "\n\n"


@dataclass(frozen=True, kw_only=True)
class ReplyCall:
    """A tool call of a Reply.

    id: as in the events and for `submit_result`.
    name: the tool.
    arguments: a JSON object as text; plain code for the `python` tool.
    result: the text that the model read, errors of the tool included; None if the call
        waits for `submit_result`, or the turn was stopped before.
    problem: why the call could not be run; "" if it could.
    """

    id: str
    name: str
    arguments: str
    result: str | None = None
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A whole turn: what `ask` returns, and what `answer_all` yields.

    answer: the text of the answer (channel `final`); "" if there is none.
    reasoning: the chain of thought (channel `analysis`), of all rounds of calls.
    preamble: text for the user before calls (channel `commentary`).
    calls: the tool calls as ReplyCall, in order, with their results.
    finish_reason: `stop` (the answer is complete), `length` (`max_tokens` or the end of
        the context), `tool_calls` (calls wait for `submit_result`), `cancelled` (by
        `cancel` or a timeout), or, in `answer_all` only, `error`.
    stats: counts and seconds of the turn, as Statistics.
    parsed: the answer as its `response_format`: an instance of the type, or JSON
        values; None without a format, and unless the finish reason is `stop`.
    prompt: what was asked: the text, or the item of the `prompts` of `answer_all`.
    index: the place of that item, from 0.
    error: in `answer_all`, the exception that ended this prompt; else None.
    """

    answer: str = ""
    reasoning: str = ""
    preamble: str = ""
    calls: tuple[ReplyCall, ...] = ()
    finish_reason: str = FAILED
    stats: Statistics = field(default_factory=lambda: Statistics(0, 0))
    parsed: Any = None
    prompt: Any = None
    index: int = 0
    error: Exception | None = None

    @classmethod
    def of(cls, events: Iterable[Event]) -> "Reply":
        """Read the events of a turn to their end: `Reply.of(chat.regenerate())`."""
        builder = ReplyBuilder()
        for event in events:
            builder.add(event)
        return builder.reply()

    @classmethod
    async def of_async(cls, events: AsyncIterable[Event]) -> "Reply":
        """Read the events of a turn of an AsyncChat to their end."""
        builder = ReplyBuilder()
        async for event in events:
            builder.add(event)
        return builder.reply()

    def raise_for_error(self) -> "Reply":
        """Raise `error` if there is one; return the reply itself otherwise."""
        if self.error is not None:
            raise self.error
        return self

    def _repr_markdown_(self) -> str:
        """Show the answer in a notebook."""
        return self.answer if self.error is None else f"`{self.error!r}`"


class ReplyBuilder:
    """Collects the events of a turn. `prompt` is kept in the Reply."""

    def __init__(self, prompt: Any = None) -> None:
        self._prompt = prompt
        self._texts: list[tuple[type[Event], list[str]]] = []  # without gaps, by kind
        self._calls: dict[str, ReplyCall] = {}
        self._done: Done | None = None

    def add(self, event: Event) -> None:
        """Take the next event."""
        if isinstance(event, Reasoning | Preamble | Answer):
            if not self._texts or self._texts[-1][0] is not type(event):
                self._texts.append((type(event), []))
            self._texts[-1][1].append(event.text)
        elif isinstance(event, ToolCall):
            self._add_call(event.id, event.name, event.arguments)
        elif isinstance(event, ToolCallFailed):
            self._add_call(event.id, event.name, event.text, event.problem)
        elif isinstance(event, ToolResult):
            if event.id in self._calls:  # else a call of an earlier turn
                call = self._calls[event.id]
                self._calls[event.id] = replace(call, result=event.text)
        elif isinstance(event, Done):
            self._done = event

    def reply(self) -> Reply:
        """Return the turn, or as much of it as there was."""
        done = self._done or Done(CANCELLED, Statistics(0, 0))
        return Reply(
            answer=self._joined(Answer),
            reasoning=self._joined(Reasoning),
            preamble=self._joined(Preamble),
            calls=tuple(self._calls.values()),
            finish_reason=done.finish_reason,
            stats=done.stats,
            prompt=self._prompt,
        )

    def cut_short(self, stats: Statistics | None) -> Reply:
        """Return a turn that ended before its Done, with its statistics."""
        stats = stats or Statistics(0, 0)
        stats = replace(stats, finish_reason=CANCELLED)
        return replace(self.reply(), finish_reason=CANCELLED, stats=stats)

    def _add_call(self, id: str, name: str, arguments: str, problem: str = "") -> None:
        call = ReplyCall(id=id, name=name, arguments=arguments, problem=problem)
        self._calls[id] = call
        self._texts.append((Event, []))  # text behind it is another message

    def _joined(self, kind: type[Event]) -> str:
        texts = ("".join(pieces) for one, pieces in self._texts if one is kind)
        return PARAGRAPH_BREAK.join(texts)
