"""One turn: from a question to a Done, by rounds of generation and of tool calls.

Knows how the model is asked and heard; what came goes into the history of its Chat.
"""

from collections.abc import Generator, Sequence
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from mlx_gptoss.engine.answer import Listener
from mlx_gptoss.engine.finish_reasons import TOOL_ROUNDS, cause
from mlx_gptoss.engine.generate import reasoning_share, room
from mlx_gptoss.engine.guide import Guide
from mlx_gptoss.engine.outputs import CANCELLED, LENGTH, STOP, TOOL_CALLS, Statistics
from mlx_gptoss.engine.stream import Stream
from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.constrain.constraints import AUTO, NONE, Constraints
from mlx_gptoss.harmony.events import (
    Answer,
    Done,
    Event,
    MessageEnded,
    ParserEvent,
    Preamble,
    Reasoning,
    ToolCall,
    ToolCallFailed,
    ToolResult,
)
from mlx_gptoss.harmony.parse.parser import Parser

if TYPE_CHECKING:
    from mlx_gptoss.chat.chat import Chat

SHOWN = (Reasoning, Preamble, Answer, ToolCall, ToolCallFailed)
TOO_LONG = "Error: the result has {} characters, too many to be read; ask for less"


class Turn:
    """Asks the model for a Chat until it has answered, or others must answer it."""

    def __init__(self, chat: "Chat", reasoned: int = 0) -> None:
        self.reasoning_tokens = reasoned  # tokens of reasoning so far
        self._chat = chat
        self._guide: Guide | None = None  # of the generation under way

    def start(self, max_tokens: int | None) -> Stream:
        """Begin to generate the next message. Raises PromptError if nothing fits."""
        chat, tools = self._chat, self._chat.toolbox
        ids = chat.prompt()
        seed = chat.params.seed
        if seed is not None:  # each generation draws anew, and all repeat
            seed += chat.generations
            chat.generations += 1
        params = replace(chat.params, max_tokens=max_tokens, seed=seed)
        constraints = self._constraints()
        if constraints.forces_a_call and constraints.max_reasoning_tokens is None:
            space = room(len(ids), 0, chat.runtime.context, max_tokens)
            share = reasoning_share(space)
            constraints = replace(constraints, max_reasoning_tokens=share)
        self._guide = chat.runtime.guides.guide(constraints, tools.targets)
        return chat.runtime.generate(
            ids, params, reuse=True, guide=self._guide, cancelled=chat.is_cancelled
        )

    def run(self, stream: Stream) -> Generator[Event]:
        """Listen, run the tools that were called, and again until no more are."""
        chat = self._chat
        total: Statistics | None = None
        for rounds in count(1):
            stats = yield from self._generate(stream)
            total = stats if total is None else total + stats
            called = bool(chat.calls.waiting)
            if total.finish_reason not in (CANCELLED, LENGTH):
                yield from self._run_tools()
            if ended := self._final_statistics(total, called=called, rounds=rounds):
                if self._mark_cut(cause(ended.finish_reason, ended.finish_details)):
                    chat.changed()
                chat.prepare()
                yield Done(ended.finish_reason or STOP, ended)
                return
            stream = self.resume(self._tokens_left(total))

    def resume(self, max_tokens: int | None) -> Stream:
        """Let the model read the results; those that do not fit are told to be long."""
        try:
            return self.start(max_tokens)
        except PromptError:
            messages = self._chat.messages
            for place in range(len(messages) - 1, -1, -1):
                message = messages[place]
                if message.role != "tool":
                    break
                text = TOO_LONG.format(len(message.text))
                messages[place] = replace(message, content=text)
            return self.start(max_tokens)

    def _final_statistics(
        self, total: Statistics, *, called: bool, rounds: int
    ) -> Statistics | None:
        """Say how the turn ended here, or None if the model has results to read."""
        if total.finish_reason in (CANCELLED, LENGTH):
            return total
        waiting = bool(self._chat.calls.waiting)
        if waiting or not called:
            return replace(total, finish_reason=TOOL_CALLS if waiting else STOP)
        if self._tokens_left(total) == 0:
            return replace(total, finish_reason=LENGTH)
        if rounds < self._chat.max_rounds:
            return None
        details = (*total.finish_details, TOOL_ROUNDS)
        return replace(total, finish_reason=LENGTH, finish_details=details)

    def _mark_cut(self, why: str | None) -> bool:
        """Note with the last message that the turn was cut here; True if it is new."""
        messages = self._chat.messages
        if why is None or messages[-1].ended == why:
            return False
        messages[-1] = replace(messages[-1], ended=why)
        return True

    def _constraints(self) -> Constraints:
        """What is left of the constraints in this round of the turn."""
        given = self._chat.constraints
        choice, budget = given.tool_choice, given.max_reasoning_tokens
        if choice != NONE and self._chat.messages[-1].role == "tool":
            choice = AUTO  # the call that was asked for has been made
        if budget is not None:
            budget = max(budget - self.reasoning_tokens, 0)
        return replace(given, tool_choice=choice, max_reasoning_tokens=budget)

    def _generate(self, stream: Stream) -> Generator[Event, None, Statistics]:
        """Yield what one generation says; keep its messages, note its calls."""
        chat = self._chat
        chat.calls.begin_generation()
        parser = Parser(
            chat.runtime.tokenizer,
            tools=chat.toolbox.functions,
            built_in=chat.toolbox.built_in,
            calls_on_analysis=chat.constraints.calls_on_analysis,
            next_id=chat.calls.next_id,
        )
        listener = Listener(parser, chat.constraints.stop)
        try:
            for step in stream:
                yield from self._record(listener.feed(step.token))
                if listener.stopped:
                    break
            yield from self._record(listener.finish())
        finally:  # also when the reader left: what came stays
            stream.close()
            self._record(listener.finish())
            self.reasoning_tokens += self._guide.reasoning_tokens if self._guide else 0
            stats = listener.judged(stream.stats)
            self._mark_cut(cause(stats.finish_reason, stats.finish_details))
            chat.changed()
        return stats

    def _record(self, events: Sequence[ParserEvent]) -> list[Event]:
        """Put ended messages into the history; return the events to show."""
        chat = self._chat
        for event in events:
            if isinstance(event, ToolCall | ToolCallFailed):
                chat.calls.start(event)
            elif isinstance(event, MessageEnded):
                message = event.message
                # Half a call cannot be answered, and nothing says nothing.
                half = not event.complete and (message.is_call or not message.text)
                with chat.moment:
                    if not half:
                        chat.messages.append(message)
                    chat.calls.finish(message, kept=not half)
        return [event for event in events if isinstance(event, SHOWN)]

    def _run_tools(self) -> Generator[Event]:
        """Answer the calls that can be answered here; the others go on waiting."""
        chat, over = self._chat, False
        try:
            for call in list(chat.calls.waiting.values()):
                text = chat.toolbox.run(call, chat.is_cancelled)
                if text is not None:
                    chat.answer([call], text)
                    chat.changed()
                    yield ToolResult(call.id, text)
            over = True
        finally:  # the reader left, or was interrupted
            if not over and self._mark_cut(CANCELLED):
                chat.changed()

    def _tokens_left(self, stats: Statistics) -> int | None:
        limit = self._chat.params.max_tokens
        return None if limit is None else max(limit - stats.completion_tokens, 0)
