"""One answer: a conversation in, what the model says out; knows no wire format.

    turn = await start_turn(runtime, ask)        # raises what is wrong with the ask
    async for heard in turn:                     # one token at a time
        heard.events                             # Reasoning | Answer | ToolCall | ...
    turn.finish_reason, turn.usage

Chat completions, responses and messages all stand on this. The model runs in its own
thread; here its tokens are read in the event loop that asked. `cancel` may be called
at any time, and must be where the tokens are no longer read to their end.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from mlx_gptoss.generate import room
from mlx_gptoss.guide import Guide
from mlx_gptoss.harmony.constrain import Constraints, Target, function_targets
from mlx_gptoss.harmony.events import ParserEvent, ToolCall, ToolCallFailed
from mlx_gptoss.harmony.grammar import can_enforce, leniently
from mlx_gptoss.harmony.messages import Message, ToolDescription
from mlx_gptoss.harmony.parse import Parser
from mlx_gptoss.harmony.render import render_messages
from mlx_gptoss.listener import Listener
from mlx_gptoss.runtime import Runtime
from mlx_gptoss.sampling import SamplingParams
from mlx_gptoss.server.errors import too_long
from mlx_gptoss.steps import CANCELLED, STOP, TOOL_CALLS, Statistics, Step

ANSWER_SHARE = 4  # of the room for tokens, one part in so many is the answer's
VISIBLE = ("final", "commentary")
CALL_ID_BYTES = 12


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What is wanted of the model.

    `conversation` is complete, the system message first. `tools` are those it offers
    as functions; `strict_tools` are the names of those whose schema must be kept to
    the letter or refused; `callable_tools` those that may be called now, None for
    all. `auto_budget` leaves a part of the room for the answer.
    """

    conversation: Sequence[Message]
    tools: Sequence[ToolDescription] = ()
    strict_tools: frozenset[str] = frozenset()
    callable_tools: frozenset[str] | None = None
    params: SamplingParams = field(default_factory=SamplingParams)
    constraints: Constraints = field(default_factory=Constraints)
    auto_budget: bool = False

    def targets(self) -> list[Target]:
        """What may be called, with the arguments as far as they can be enforced."""
        return function_targets(
            replace(tool, parameters=self._enforceable(tool))
            for tool in self.tools
            if self.callable_tools is None or tool.name in self.callable_tools
        )

    def _enforceable(self, tool: ToolDescription) -> Any:
        schema = tool.parameters
        if schema is None or tool.name in self.strict_tools or can_enforce(schema):
            return schema
        return leniently(schema)


@dataclass(frozen=True)
class Usage:
    """Tokens: of the prompt, those not read again, of the answer, of its thoughts."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.completion_tokens + other.completion_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True)
class Heard:
    """One token and what it completed; the last one of a turn may have no token.

    `visible` tells that the token is text of the answer or of a preamble.
    """

    events: Sequence[ParserEvent]
    step: Step | None = None
    visible: bool = False


@dataclass(frozen=True)
class Prompt:
    """What the model is given; knows nothing of how it goes on."""

    ids: list[int]
    guide: Guide | None
    params: SamplingParams


def prepare(runtime: Runtime, ask: Ask) -> Prompt:
    """Render a conversation and compile what binds the answer.

    Raises ApiError for a prompt that fills the context, and PromptError.
    """
    ids = render_messages(ask.conversation, runtime.tokenizer)
    context = runtime.context
    if context is not None and len(ids) >= context:
        raise too_long(len(ids), context)
    constraints = ask.constraints
    if ask.auto_budget and constraints.max_reasoning_tokens is None:
        tokens = room(len(ids), 0, context, ask.params.max_tokens)
        budget = max(1, tokens - tokens // ANSWER_SHARE)
        constraints = replace(constraints, max_reasoning_tokens=budget)
    guide = runtime.guides.guide(constraints, ask.targets())
    return Prompt(ids, guide, ask.params)


def new_call_id() -> str:
    """Return an id for a call that no other request will have."""
    return f"call_{secrets.token_hex(CALL_ID_BYTES)}"


class Turn:
    """One answer under way: an async iterator of Heard, to be read once."""

    def __init__(self, runtime: Runtime, ask: Ask, prompt: Prompt) -> None:
        self.prompt = prompt
        self._runtime = runtime
        self._parser = Parser(runtime.tokenizer, tools=ask.tools, next_id=new_call_id)
        self._listener = Listener(self._parser, ask.constraints.stop)
        self._loop = asyncio.get_running_loop()
        self._arrived: asyncio.Queue[Step | None] = asyncio.Queue()
        self.begun = asyncio.Event()  # the prompt has been read, or the turn ended
        self._ticket: Any = None
        self._cancelled = False
        self._stats: Statistics | None = None
        self._error: BaseException | None = None
        self._heard = 0
        self._reasoned = 0
        self._called = False

    async def start(self) -> None:
        """Hand the prompt to the model's thread."""
        await asyncio.to_thread(self._submit)

    def cancel(self) -> None:
        """Stop within one step of the model; also before it has begun, and twice."""
        self._cancelled = True
        if self._ticket is not None:
            self._ticket.cancel()

    @property
    def usage(self) -> Usage:
        """What was used so far or in all."""
        stats = self._stats or (self._ticket.stats if self._ticket else None)
        cached = stats.cached_tokens if stats else 0
        return Usage(len(self.prompt.ids), cached, self._heard, self._reasoned)

    @property
    def stats(self) -> Statistics | None:
        """What the generation took, once it has ended."""
        return self._listener.judged(self._stats) if self._stats else None

    @property
    def finish_reason(self) -> str:
        """stop, length, tool_calls or cancelled, once the turn has ended.

        Calls count as such only where one can be read; a stop string ends an answer.
        """
        stats = self.stats
        reason = (stats.finish_reason if stats else None) or CANCELLED
        if reason in (STOP, TOOL_CALLS):
            return TOOL_CALLS if self._called else STOP
        return reason

    @property
    def finish_details(self) -> tuple[str, ...]:
        """What was cut short: see Statistics."""
        stats = self.stats
        return stats.finish_details if stats else ()

    async def __aiter__(self) -> AsyncGenerator[Heard]:
        """Read the answer to its end; raises what the model's thread raised."""
        try:
            while (step := await self._arrived.get()) is not None:
                if not self._listener.stopped:
                    yield self._read(step)
                    if self._listener.stopped:
                        self.cancel()
            if self._error is not None:
                raise self._error
            yield Heard(self._note(self._listener.finish()))
        finally:
            self.cancel()

    def _read(self, step: Step) -> Heard:
        self._heard += 1
        before = self._parser.reading
        events = self._note(self._listener.feed(step.token))
        is_text = self._parser.fates[-1:] == ["text"]
        self._reasoned += is_text and before == "analysis"
        return Heard(events, step, visible=is_text and before in VISIBLE)

    def _note(self, events: Sequence[ParserEvent]) -> Sequence[ParserEvent]:
        for event in events:
            if isinstance(event, ToolCall | ToolCallFailed):
                cut = isinstance(event, ToolCallFailed) and event.cut_off
                self._called = self._called or not cut
        return events

    def _submit(self) -> None:
        self._ticket = self._runtime.submit(
            self.prompt.ids,
            self.prompt.params,
            guide=self.prompt.guide,
            on_step=self._on_step,
            on_end=self._on_end,
        )
        if self._cancelled:  # while this thread was at it
            self._ticket.cancel()

    # In the model's thread

    def _on_step(self, step: Step) -> None:
        self._tell(self._arrive, step)

    def _on_end(self, stats: Statistics | None, error: BaseException | None) -> None:
        self._tell(self._end, stats, error)

    def _tell(self, what: Any, *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(what, *arguments)
        except RuntimeError:  # the loop is closed: nobody listens any more
            self._cancelled = True

    # In the event loop

    def _arrive(self, step: Step) -> None:
        self.begun.set()
        self._arrived.put_nowait(step)

    def _end(self, stats: Statistics | None, error: BaseException | None) -> None:
        self._stats, self._error = stats, error
        self.begun.set()
        self._arrived.put_nowait(None)


async def start_turn(runtime: Runtime, ask: Ask) -> Turn:
    """Prepare and start one turn. Raises what is wrong with the ask."""
    prompt = await asyncio.to_thread(prepare, runtime, ask)
    return await _started(Turn(runtime, ask, prompt))


async def start_turns(runtime: Runtime, ask: Ask, count: int) -> list[Turn]:
    """Start `count` turns of one prompt, which is read once.

    Each draws with a seed of its own: the given one, and those after it.
    """
    turns = [await start_turn(runtime, ask)]
    try:
        if count > 1:
            await turns[0].begun.wait()  # the others find the prompt in the cache
        for number in range(1, count):
            seed = ask.params.seed
            params = replace(ask.params, seed=None if seed is None else seed + number)
            turns.append(await start_turn(runtime, replace(ask, params=params)))
    except BaseException:
        for turn in turns:
            turn.cancel()
        raise
    return turns


async def _started(turn: Turn) -> Turn:
    try:
        await turn.start()
    except BaseException:
        turn.cancel()
        raise
    return turn


async def merged(turns: Sequence[Turn]) -> AsyncIterator[tuple[int, Heard | None]]:
    """Read several turns as their tokens come: (which, what), None at its end."""
    if len(turns) == 1:
        async with aclosing(turns[0].__aiter__()) as heard:
            async for one in heard:
                yield 0, one
        yield 0, None
        return
    arrived: asyncio.Queue[tuple[int, Heard | BaseException | None]] = asyncio.Queue()

    async def read(number: int, turn: Turn) -> None:
        try:
            async with aclosing(turn.__aiter__()) as heard:
                async for one in heard:
                    arrived.put_nowait((number, one))
            arrived.put_nowait((number, None))
        except Exception as error:  # raised again below, where it can be told
            arrived.put_nowait((number, error))

    tasks = [asyncio.create_task(read(*pair)) for pair in enumerate(turns)]
    try:
        left = len(turns)
        while left:
            number, what = await arrived.get()
            if isinstance(what, BaseException):
                raise what
            left -= what is None
            yield number, what
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
