"""One answer: a prompt in, what the model says out; knows no wire format.

    turn = await start_turn(runtime, prepare(runtime, ask))
    async for heard in turn:                     # one token at a time
        heard.events                             # Reasoning | Answer | ToolCall | ...
    turn.finish_reason, turn.usage

Every API stands on this. The model runs in its own thread; here its tokens are read
in the event loop that asked. `cancel` may be called at any time, and must be where
the tokens are no longer read to their end.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from mlx_gptoss.api.text_parser import AnswerParser, ParsedToken
from mlx_gptoss.engine.answer import STOP_STRING
from mlx_gptoss.engine.interfaces import TokenGuide
from mlx_gptoss.engine.outputs import CANCELLED, STOP, TOOL_CALLS, Statistics, Step
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.engine.scheduler.request import Request
from mlx_gptoss.harmony.messages import Message


@dataclass(frozen=True)
class PreparedPrompt:
    """What the model is given, and who reads the answer. For one turn only.

    It is `shared` where other turns have the same `ids`: they are read once for all.
    `freed` are keywords of schemas that do not bind what is sampled.
    """

    ids: list[int]
    params: SamplingParams
    reader: AnswerParser
    guide: TokenGuide | None = None
    conversation: Sequence[Message] = ()  # before the answer, if it will go on
    shared: bool = False
    freed: Sequence[str] = ()


@dataclass(frozen=True)
class TokenCounts:
    """Tokens: of the prompt, those not read again, of the answer, of its thoughts."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0


class AnswerStream:
    """One answer under way: an async iterator of Heard, to be read once.

    `on_end` is called once, with the turn at its end, before who reads it knows.
    """

    def __init__(
        self,
        runtime: Runtime,
        prompt: PreparedPrompt,
        on_end: "Callable[[AnswerStream], Any] | None" = None,
        request: object = None,
    ) -> None:
        self.prompt = prompt
        self.reader = prompt.reader
        self.begun = asyncio.Event()  # the prompt has been read, or the turn ended
        self._runtime = runtime
        self._on_end = on_end
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._arrived: asyncio.Queue[Step | None] = asyncio.Queue()
        self._ticket: Request | None = None
        self._cancelled = False
        self._stats: Statistics | None = None
        self._error: BaseException | None = None
        self._ended = False
        self._heard = 0

    async def start(self) -> None:
        """Hand the prompt to the model's thread. Raises PromptError and BusyError."""
        await asyncio.to_thread(self._submit)

    def cancel(self) -> None:
        """Stop within one step of the model; also before it has begun, and twice."""
        self._cancelled = True
        if self._ticket is not None:
            self._ticket.cancel()

    def fail(self, error: Exception) -> None:
        """End it with an error, which who reads it gets; one that ended stays so."""
        if not self._ended and not self.reader.stopped:
            self._end(None, error)
            self.cancel()

    @property
    def place(self) -> int:
        """The place in the queue: 1 is next, 0 is not in it."""
        return self._ticket.position if self._ticket is not None else 0

    def leave(self) -> None:
        """Cancel it and hear no more of it; its end is told. Twice is once."""
        self.cancel()
        self._tell_end()

    @property
    def usage(self) -> TokenCounts:
        """What was used, so far or in all."""
        stats = self._stats or (self._ticket.stats if self._ticket else None)
        cached = stats.cached_tokens if stats else 0
        ids = self.prompt.ids
        return TokenCounts(len(ids), cached, self._heard, self.reader.reasoned)

    @property
    def stats(self) -> Statistics | None:
        """What the generation took, once it has ended."""
        if self._stats is None or not self.reader.stopped:
            return self._stats
        details = (*self._stats.finish_details, STOP_STRING)
        return replace(self._stats, finish_reason=STOP, finish_details=details)

    @property
    def finish_reason(self) -> str:
        """stop, length, tool_calls or cancelled, once the turn has ended.

        Calls count as such only where one has come to its end.
        """
        stats = self.stats
        reason = (stats.finish_reason if stats else None) or CANCELLED
        if reason in (STOP, TOOL_CALLS):
            return TOOL_CALLS if self.reader.called else STOP
        return reason

    @property
    def finish_details(self) -> tuple[str, ...]:
        """What was cut short: see Statistics."""
        stats = self.stats
        return stats.finish_details if stats else ()

    async def __aiter__(self) -> AsyncGenerator[ParsedToken]:
        """Read the answer to its end; raises what the model's thread raised."""
        try:
            while (step := await self._arrived.get()) is not None:
                if self.reader.stopped:
                    continue
                self._heard += 1
                yield self.reader.feed(step)
                if self.reader.stopped:
                    self.cancel()
            if self._error is not None:
                raise self._error
            last = self.reader.finish()
            self._tell_end()
            yield last
        finally:
            self.cancel()

    def _tell_end(self) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self)

    def _submit(self) -> None:
        self._ticket = self._runtime.submit(
            self.prompt.ids,
            self.prompt.params,
            guide=self.prompt.guide,
            shared=self.prompt.shared,
            group=self._request,
            on_step=lambda step: self._tell(self._arrive, step),
            on_end=lambda stats, error: self._tell(self._end, stats, error),
        )
        if self._cancelled:  # while this thread was at it
            self._ticket.cancel()

    def _tell(self, what: Callable[..., None], *arguments: Any) -> None:
        """Go over to the event loop; called in the model's thread."""
        try:
            self._loop.call_soon_threadsafe(what, *arguments)
        except RuntimeError:  # the loop is closed: nobody listens any more
            self._cancelled = True

    def _arrive(self, step: Step) -> None:
        self.begun.set()
        self._arrived.put_nowait(step)

    def _end(self, stats: Statistics | None, error: BaseException | None) -> None:
        if self._ended:  # the first end counts
            return
        self._ended = True
        self._stats, self._error = stats, error
        self.begun.set()
        self._arrived.put_nowait(None)


async def start_answers(
    runtime: Runtime,
    prompts: Sequence[PreparedPrompt],
    on_end: Callable[[AnswerStream], Any] | None = None,
) -> list[AnswerStream]:
    """Start a turn of each prompt; of equal ones the ids are read once.

    They are one request: once the first is taken, the others may wait. Raises what is
    wrong with one of them, and then stops the others.
    """
    turns: list[AnswerStream] = []
    request = object()
    try:
        for prompt in prompts:
            same = [turn for turn in turns if turn.prompt.ids == prompt.ids]
            if same:
                await same[0].begun.wait()  # then the prompt is in the cache
            turns.append(AnswerStream(runtime, prompt, on_end, request))
            await turns[-1].start()
    except BaseException:
        for turn in turns:
            turn.cancel()
        raise
    return turns


async def merge_answers(
    turns: Sequence[AnswerStream],
) -> AsyncIterator[tuple[int, ParsedToken | None]]:
    """Read several turns as their tokens come: (which, what), None at its end."""
    if len(turns) == 1:
        async with aclosing(aiter(turns[0])) as alone:
            async for one in alone:
                yield 0, one
        yield 0, None
        return
    arrived: asyncio.Queue[tuple[int, ParsedToken | Exception | None]] = asyncio.Queue()

    async def read(number: int, turn: AnswerStream) -> None:
        try:
            async with aclosing(aiter(turn)) as heard:
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
            if isinstance(what, Exception):
                raise what
            left -= what is None
            yield number, what
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
