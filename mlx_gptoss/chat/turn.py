"""One turn: from a question to a Done, in rounds of generation and tool calls.

Generates messages, records them in the transcript of the chat, and runs the tools that
are called. The chat supplies the prompt and the settings.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from itertools import count

from mlx_gptoss.chat.toolbox import Toolbox
from mlx_gptoss.chat.transcript import Transcript
from mlx_gptoss.engine.answer import AnswerParser
from mlx_gptoss.engine.finish_reasons import TOOL_ROUNDS, incomplete_cause
from mlx_gptoss.engine.generate import default_reasoning_budget, resolve_max_tokens
from mlx_gptoss.engine.guide import Guide
from mlx_gptoss.engine.outputs import CANCELLED, LENGTH, STOP, TOOL_CALLS, Statistics
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.engine.stream import Stream
from mlx_gptoss.errors import PromptError
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
from mlx_gptoss.harmony.parse.parser import Parser

TOO_LONG = "Error: the result has {} characters, too many to be read; ask for less"


@dataclass(frozen=True)
class TurnSettings:
    """The settings of a chat that one turn depends on."""

    params: SamplingParams
    constraints: Constraints
    max_rounds: int


@dataclass(frozen=True)
class TurnContext:
    """The parts of a chat that a turn works with.

    `settings` and `prompt` are called before each generation, `changed` after every
    change of the transcript, and `cancelled` after every token.
    """

    runtime: Runtime
    toolbox: Toolbox
    transcript: Transcript
    settings: Callable[[], TurnSettings]
    prompt: Callable[[], list[int]]
    changed: Callable[[], None]
    cancelled: Callable[[], bool] = lambda: False


class Turn:
    """Generates for a chat until the model has answered or the caller must answer."""

    def __init__(self, context: TurnContext, reasoning_tokens: int = 0) -> None:
        self.reasoning_tokens = reasoning_tokens  # so far
        self._context = context
        self._transcript = context.transcript
        self._guide: Guide | None = None  # of the generation in progress

    def start(self, max_tokens: int | None) -> Stream:
        """Start generating. Raises PromptError if the prompt does not fit."""
        context, settings = self._context, self._context.settings()
        runtime, params = context.runtime, settings.params
        ids = context.prompt()
        seed = params.seed
        if seed is not None:  # another seed each generation, reproducible as a whole
            seed += self._transcript.generations
            self._transcript.generations += 1
        params = replace(params, max_tokens=max_tokens, seed=seed)
        constraints = self._remaining_constraints(settings.constraints)
        if constraints.forces_a_call and constraints.max_reasoning_tokens is None:
            space = resolve_max_tokens(len(ids), 0, runtime.context, max_tokens)
            share = default_reasoning_budget(space)
            constraints = replace(constraints, max_reasoning_tokens=share)
        self._guide = runtime.guides.create(constraints, context.toolbox.targets)
        return runtime.generate(
            ids, params, reuse=True, guide=self._guide, cancelled=context.cancelled
        )

    def run(self, stream: Stream) -> Generator[Event]:
        """Generate, run the tools that are called, and repeat until none are."""
        total: Statistics | None = None
        for rounds in count(1):
            stats = yield from self._generate(stream)
            total = stats if total is None else total + stats
            called = bool(self._transcript.waiting)
            if total.finish_reason not in (CANCELLED, LENGTH):
                yield from self._run_tools()
            if final := self._final_statistics(total, called=called, rounds=rounds):
                reason = incomplete_cause(final.finish_reason, final.finish_details)
                if self._transcript.mark_cut(reason):
                    self._context.changed()
                yield Done(final.finish_reason or STOP, final)
                return
            stream = self.resume(self._tokens_left(total))

    def resume(self, max_tokens: int | None) -> Stream:
        """Generate from the tool results; replace results that are too long to fit."""
        try:
            return self.start(max_tokens)
        except PromptError:
            messages = self._transcript.messages
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
        """Return how the turn ended; None if the model has results to read."""
        if total.finish_reason in (CANCELLED, LENGTH):
            return total
        waiting = bool(self._transcript.waiting)
        if waiting or not called:
            return replace(total, finish_reason=TOOL_CALLS if waiting else STOP)
        if self._tokens_left(total) == 0:
            return replace(total, finish_reason=LENGTH)
        if rounds < self._context.settings().max_rounds:
            return None
        details = (*total.finish_details, TOOL_ROUNDS)
        return replace(total, finish_reason=LENGTH, finish_details=details)

    def _remaining_constraints(self, given: Constraints) -> Constraints:
        """Return the constraints that still hold in this round of the turn."""
        choice, budget = given.tool_choice, given.max_reasoning_tokens
        if choice != NONE and self._transcript.messages[-1].role == "tool":
            choice = AUTO  # the call that was required has been made
        if budget is not None:
            budget = max(budget - self.reasoning_tokens, 0)
        return replace(given, tool_choice=choice, max_reasoning_tokens=budget)

    def _generate(self, stream: Stream) -> Generator[Event, None, Statistics]:
        """Yield the events of one generation; record its messages and calls."""
        toolbox, calls = self._context.toolbox, self._transcript.calls
        constraints = self._context.settings().constraints
        calls.begin_generation()
        parser = Parser(
            self._context.runtime.tokenizer,
            tools=toolbox.functions,
            built_in=toolbox.built_in,
            calls_on_analysis=constraints.calls_on_analysis,
            next_id=calls.next_id,
        )
        listener = AnswerParser(parser, constraints.stop)
        try:
            for step in stream:
                yield from self._record(listener.feed(step.token))
                if listener.stopped:
                    break
            yield from self._record(listener.finish())
        finally:  # also when the caller closed the iterator: keep what was generated
            stream.close()
            self._record(listener.finish())
            self.reasoning_tokens += self._guide.reasoning_tokens if self._guide else 0
            stats = listener.with_stop_string(stream.stats)
            self._transcript.mark_cut(
                incomplete_cause(stats.finish_reason, stats.finish_details)
            )
            self._context.changed()
        return stats

    def _record(self, events: Sequence[ParserEvent]) -> list[Event]:
        """Append ended messages to the transcript; return the events to yield."""
        for event in events:
            if isinstance(event, ToolCall | ToolCallFailed):
                self._transcript.calls.start(event)
            elif isinstance(event, MessageEnded):
                message = event.message
                # An incomplete call cannot be answered; an empty message is nothing.
                cut = not event.complete and (message.is_call or not message.text)
                self._transcript.append(message, kept=not cut)
        return [event for event in events if isinstance(event, Event)]

    def _run_tools(self) -> Generator[Event]:
        """Run the calls that have a function; the others keep waiting."""
        transcript, finished = self._transcript, False
        try:
            for call in list(transcript.waiting.values()):
                text = self._context.toolbox.run(call, self._context.cancelled)
                if text is not None:
                    transcript.answer([call], text)
                    self._context.changed()
                    yield ToolResult(call.id, text)
            finished = True
        finally:  # the caller closed the iterator, or an interrupt arrived
            if not finished and transcript.mark_cut(CANCELLED):
                self._context.changed()

    def _tokens_left(self, stats: Statistics) -> int | None:
        limit = self._context.settings().params.max_tokens
        return None if limit is None else max(limit - stats.completion_tokens, 0)
