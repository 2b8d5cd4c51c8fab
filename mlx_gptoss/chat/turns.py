"""The turns of a chat: from a question to a Done, in rounds of generation and calls.

Generates messages, records them in the transcript, and runs the tools that are called,
one turn at a time. A turn yields its events, and the work it waits for (`turn_work`).
Knows nothing of how a chat is named, saved, or edited.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from mlx_gptoss.chat.answer_lock import AnswerLock
from mlx_gptoss.chat.prompt import prefill_history, render_prompt
from mlx_gptoss.chat.turn_work import CallRun, Computation, NextStep, RunningTurn
from mlx_gptoss.engine.answer import AnswerParser
from mlx_gptoss.engine.finish_reasons import TOOL_ROUNDS, incomplete_cause
from mlx_gptoss.engine.guide import Guide
from mlx_gptoss.engine.outputs import CANCELLED, LENGTH, STOP, TOOL_CALLS, Statistics
from mlx_gptoss.engine.prompt_progress import PromptMeter
from mlx_gptoss.engine.stream import Stream
from mlx_gptoss.engine.token_limits import default_reasoning_budget, resolve_max_tokens
from mlx_gptoss.errors import MemoryBudgetError, PromptError
from mlx_gptoss.harmony.constrain.answer_format import AnswerFormat
from mlx_gptoss.harmony.constrain.constraints import AUTO, NONE, Constraints
from mlx_gptoss.harmony.events import (
    Done,
    Event,
    MessageEnded,
    ParserEvent,
    ToolCall,
    ToolCallFailed,
    ToolResult,
)
from mlx_gptoss.harmony.messages import Message
from mlx_gptoss.harmony.parse.parser import Parser

if TYPE_CHECKING:
    from mlx_gptoss.chat.base_chat import BaseChat

TOGETHER = 16  # steps read at a time of an answer that only its end is waited for
TOO_LONG = "Error: the result has {} characters, too many to be read; ask for less"


class Turns:
    """Runs the turns of `chat`, with its settings of the moment.

    Whoever changes the transcript otherwise holds `lock` meanwhile. `stats` are those
    of the current turn so far, None before its first token.
    """

    def __init__(self, chat: "BaseChat", reasoning_tokens: int = 0) -> None:
        self.lock = AnswerLock()
        self.reasoning_tokens = reasoning_tokens  # of the current turn so far
        self.stats: Statistics | None = None
        self.leaving: list[asyncio.Task[None]] = []  # for `drive_async`
        self._chat = chat
        self._turn = 0  # the number of the current turn
        self._guide: Guide | None = None  # of the generation in progress
        self._stream: Stream | None = None  # the generation in progress
        self._cancelled = threading.Event()

    @property
    def queue_position(self) -> int:
        """The place of the generation in progress in the queue; 0 is not queued."""
        stream = self._stream
        return 0 if stream is None else stream.queue_position

    @property
    def running_stats(self) -> Statistics | None:
        """The statistics so far of the generation in progress, if any."""
        stream = self._stream
        return None if stream is None else stream.stats

    def begin(self) -> None:
        """Begin a turn; results for earlier ones are refused from now on."""
        self._turn += 1
        self.reasoning_tokens = 0
        self.stats = None

    def ask(
        self,
        history: Callable[[], list[Message]],
        response_format: AnswerFormat | None = None,
        *,
        goes_on: bool = True,
    ) -> RunningTurn[None]:
        """Answer the history that `history` returns, which ends with a question.

        If it ends before generation begins, the old history is restored. The answer has
        `response_format`, if given. `goes_on` says that another question may follow,
        for which the history is prefilled; otherwise nobody looks at an answer before
        it is whole, and its steps are read several at a time.
        """
        return self._hold(self._ask(history, goes_on=goes_on), response_format)

    def submit_result(self, call_id: str, text: str) -> RunningTurn[None]:
        """Insert the result of a waiting call; continue once none waits."""
        with self.lock.hold():
            transcript = self._chat.transcript
            waiting = transcript.waiting
            if call_id not in waiting:
                known = ", ".join(f"`{one}`" for one in waiting) or "none"
                raise PromptError(
                    f"no call `{call_id}` waits; the waiting calls: {known}"
                )
            transcript.answer([waiting[call_id]], text)
            self._chat.record_change()
            turn = self._continue(self._turn)
        return _nothing() if waiting else self._hold(turn)

    def cancel(self) -> None:
        """End the answer in progress after its current token."""
        self._cancelled.set()

    def _hold(
        self, turn: RunningTurn[Done], response_format: AnswerFormat | None = None
    ) -> RunningTurn[None]:
        """Run a turn while holding the lock, which its reader may need at its Done."""
        with self.lock.hold(), self._formatted(response_format):
            done = yield from turn
        yield done

    @contextmanager
    def _formatted(self, response_format: AnswerFormat | None) -> Iterator[None]:
        """Constrain the answers of a turn to a format, if one is given."""
        if response_format is None:
            yield
            return
        chat, before = self._chat, self._chat.constraints
        chat.constraints = replace(before, response_format=response_format)
        try:
            yield
        finally:
            chat.constraints = before

    def _ask(
        self, history: Callable[[], list[Message]], *, goes_on: bool
    ) -> RunningTurn[Done]:
        messages, transcript = history(), self._chat.transcript
        self._cancelled.clear()
        before, turn = transcript.replace(messages), (self._turn, self.reasoning_tokens)
        self.begin()
        try:
            stream = yield from self._start(self._chat.params.max_tokens)
        except BaseException:  # also one that was left while the prompt was prepared
            transcript.restore(before)
            self._turn, self.reasoning_tokens = turn
            raise
        with closing(stream):
            self._chat.record_change()
            return (yield from self._run(stream, goes_on=goes_on))

    def _continue(self, turn: int) -> RunningTurn[Done]:
        if turn != self._turn:
            raise PromptError(
                "this result is of an earlier turn: the chat went on without it"
            )
        self._cancelled.clear()
        self._chat.transcript.reopen_last_turn()
        self.stats = None
        stream = yield from self._resume(self._chat.params.max_tokens)
        return (yield from self._run(stream))

    def _run(self, stream: Stream, *, goes_on: bool = True) -> RunningTurn[Done]:
        """Generate, run the tools that are called, and repeat until none are."""
        transcript = self._chat.transcript
        for rounds in count(1):
            yield from self._generate(stream, 1 if goes_on else TOGETHER)
            total = self.stats
            assert total is not None
            called = bool(transcript.waiting)
            if total.finish_reason not in (CANCELLED, LENGTH):
                yield from self._run_tools()
            if final := self._final_statistics(total, called=called, rounds=rounds):
                reason = incomplete_cause(final.finish_reason, final.finish_details)
                if transcript.mark_cut(reason):
                    self._chat.record_change()
                if goes_on:
                    yield Computation(partial(prefill_history, self._chat))
                return Done(final.finish_reason or STOP, final)
            stream = yield from self._resume(self._tokens_left(total))
        raise AssertionError("unreachable")

    def _start(self, max_tokens: int | None) -> RunningTurn[Stream]:
        """Start generating. Raises PromptError if the prompt does not fit."""
        chat, params = self._chat, self._chat.params
        ids = yield Computation(partial(self._prepare, max_tokens))
        seed = params.seed
        if seed is not None:  # another seed each generation, reproducible as a whole
            seed += chat.transcript.generations
            chat.transcript.generations += 1
        params = replace(params, max_tokens=max_tokens, seed=seed)
        meter = PromptMeter(len(ids), chat.on_progress)
        stream = meter.source = chat.runtime.generate(
            ids,
            params,
            reuse=True,
            guide=self._guide,
            progress=meter,
            cancelled=self._cancelled.is_set,
            adapter=chat.adapter,
        )
        return stream

    def _prepare(self, max_tokens: int | None) -> list[int]:
        """Return the prompt, and create the guide of its answer."""
        chat = self._chat
        ids = render_prompt(chat)
        constraints = self._remaining_constraints()
        if constraints.forces_a_call and constraints.max_reasoning_tokens is None:
            longest = chat.runtime.longest_sequence
            space = resolve_max_tokens(len(ids), 0, longest, max_tokens)
            share = default_reasoning_budget(space)
            constraints = replace(constraints, max_reasoning_tokens=share)
        self._guide = chat.runtime.guides.create(constraints, chat.toolbox.targets)
        return ids

    def _resume(self, max_tokens: int | None) -> RunningTurn[Stream]:
        """Generate from the tool results; replace results that are too long to fit."""
        try:
            return (yield from self._start(max_tokens))
        except (PromptError, MemoryBudgetError):
            messages = self._chat.messages
            for place in range(len(messages) - 1, -1, -1):
                message = messages[place]
                if message.role != "tool":
                    break
                text = TOO_LONG.format(len(message.text))
                messages[place] = replace(message, content=text)
            return (yield from self._start(max_tokens))

    def _remaining_constraints(self) -> Constraints:
        """Return the constraints that still hold in this round of the turn."""
        given = self._chat.constraints
        choice, budget = given.tool_choice, given.max_reasoning_tokens
        if choice != NONE and self._chat.messages[-1].role == "tool":
            choice = AUTO  # the call that was required has been made
        if budget is not None:
            budget = max(budget - self.reasoning_tokens, 0)
        return replace(given, tool_choice=choice, max_reasoning_tokens=budget)

    def _generate(self, stream: Stream, together: int) -> RunningTurn[None]:
        """Yield the events of one generation; record its messages, calls, and stats."""
        chat, calls = self._chat, self._chat.transcript.calls
        calls.begin_generation()
        parser = Parser(
            chat.runtime.tokenizer,
            tools=chat.functions,
            built_in=chat.toolbox.built_in,
            calls_on_analysis=chat.constraints.calls_on_analysis,
            next_id=calls.next_id,
        )
        answer = AnswerParser(parser, chat.constraints.stop)
        if chat.constraints.stop:  # what is computed after a stop string is lost
            together = 1
        next_step, self._stream = NextStep(stream, together), stream
        try:
            while not answer.stopped and (step := (yield next_step)) is not None:
                yield from self._record(answer.feed(step.token))
            yield from self._record(answer.finish())
        finally:  # also when the caller closed the iterator: keep what was generated
            stream.close()
            self._stream = None
            self._record(answer.finish())
            self.reasoning_tokens += self._guide.reasoning_tokens if self._guide else 0
            stats = answer.with_stop_string(stream.stats)
            chat.transcript.mark_cut(
                incomplete_cause(stats.finish_reason, stats.finish_details)
            )
            self.stats = stats if self.stats is None else self.stats + stats
            chat.record_change()

    def _record(self, events: Sequence[ParserEvent]) -> list[Event]:
        """Append ended messages to the transcript; return the events to yield."""
        transcript = self._chat.transcript
        for event in events:
            if isinstance(event, ToolCall | ToolCallFailed):
                transcript.calls.start(event)
            elif isinstance(event, MessageEnded):
                message = event.message
                # An incomplete call cannot be answered; an empty message is nothing.
                cut = not event.complete and (message.is_call or not message.text)
                transcript.append(message, kept=not cut)
        return [event for event in events if isinstance(event, Event)]

    def _run_tools(self) -> RunningTurn[None]:
        """Run the calls that have a function; the others keep waiting."""
        chat, transcript, finished = self._chat, self._chat.transcript, False
        try:
            for call in list(transcript.waiting.values()):
                text = yield CallRun(chat.toolbox, call, self._cancelled)
                if text is not None:
                    transcript.answer([call], text)
                    chat.record_change()
                    yield ToolResult(call.id, text)
            finished = True
        finally:  # the caller closed the iterator, or an interrupt arrived
            if not finished and transcript.mark_cut(CANCELLED):
                chat.record_change()

    def _final_statistics(
        self, total: Statistics, *, called: bool, rounds: int
    ) -> Statistics | None:
        """Return how the turn ended; None if the model has results to read."""
        if total.finish_reason in (CANCELLED, LENGTH):
            return total
        waiting = bool(self._chat.waiting)
        if waiting or not called:
            return replace(total, finish_reason=TOOL_CALLS if waiting else STOP)
        if self._tokens_left(total) == 0:
            return replace(total, finish_reason=LENGTH)
        if rounds < self._chat.max_rounds:
            return None
        details = (*total.finish_details, TOOL_ROUNDS)
        return replace(total, finish_reason=LENGTH, finish_details=details)

    def _tokens_left(self, stats: Statistics) -> int | None:
        limit = self._chat.params.max_tokens
        return None if limit is None else max(limit - stats.completion_tokens, 0)


def _nothing() -> RunningTurn[None]:
    """Return a turn without events: other calls wait for their results."""
    yield from ()
