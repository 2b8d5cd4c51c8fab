"""Stream one answer from the model's thread to an event loop; knows no wire type.

    [answer] = await start_answers(runtime, prepare_prompts(request, runtime))
    async for parsed in answer:                  # one token at a time
        parsed.events                            # Reasoning | Answer | ToolCall | ...
    answer.finish_reason, answer.usage

Every API is built on this. `cancel` may be called at any time, and must be called when
the answer is not iterated to its end.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from mlx_gptoss.api.reply_parser import ParsedToken, ReplyParser
from mlx_gptoss.engine.interfaces import TokenGuide
from mlx_gptoss.engine.outputs import CANCELLED, STOP, TOOL_CALLS, Statistics, Step
from mlx_gptoss.engine.prompt_logprobs import PromptLogprobs
from mlx_gptoss.engine.prompt_progress import (
    OnPromptProgress,
    PromptMeter,
    PromptProgress,
)
from mlx_gptoss.engine.runtime import RUN_AHEAD, Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.engine.scheduler import Generation
from mlx_gptoss.harmony.messages import Message


@dataclass(frozen=True)
class PreparedPrompt:
    """A rendered prompt, its sampling, guide and parser. Good for one answer.

    `adapter` is the name of the adapter that answers, None for the model without one.
    `shared` says that other answers have the same `ids`, which are then prefilled once
    for all. `conversation` is set where a next request may continue it. With
    `reports_progress`, the answer tells how the prompt is read. `unenforced` are the
    schema keywords that do not constrain sampling.
    """

    ids: list[int]
    params: SamplingParams
    parser: ReplyParser
    guide: TokenGuide | None = None
    conversation: Sequence[Message] = ()
    shared: bool = False
    reports_progress: bool = False
    unenforced: Sequence[str] = ()
    adapter: str | None = None


@dataclass(frozen=True)
class TokenCounts:
    """Tokens of the prompt, those found in the cache, of the answer, of reasoning."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0


class AnswerStream:
    """A running answer: an async iterator of ParsedToken, to be iterated once.

    `on_end(answer)` is called once, before the consumer sees the end. `group` is any
    object; answers of one group are admitted together. `on_progress(progress)` is
    called while the prompt is read.
    """

    def __init__(
        self,
        runtime: Runtime,
        prompt: PreparedPrompt,
        on_end: "Callable[[AnswerStream], Any] | None" = None,
        group: object = None,
    ) -> None:
        self.prompt = prompt
        self.parser = prompt.parser
        self.progress: PromptProgress | None = None  # until the first token
        self.on_progress: OnPromptProgress = lambda progress: None
        self._runtime = runtime
        self._on_end = on_end
        self._group = group
        self._loop = asyncio.get_running_loop()
        self.prompt_logprobs: PromptLogprobs | None = None  # before the first token
        self._steps: asyncio.Queue[Step | PromptProgress | None] = asyncio.Queue()
        self._request: Generation | None = None
        self._cancelled = False
        self._stats: Statistics | None = None
        self._error: BaseException | None = None
        self._started = self._ended = False
        self._completion_tokens = 0
        self._read_steps = 0

    async def start(self) -> None:
        """Submit the prompt to the runtime. Raises PromptError and BusyError."""
        await asyncio.to_thread(self._submit)

    def cancel(self) -> None:
        """Stop within one decode step; also before `start`, and repeatedly."""
        self._cancelled = True
        if self._request is not None:
            self._request.cancel()

    def fail(self, error: Exception) -> None:
        """End a running answer with an error that its consumer gets."""
        if not self._ended and not self.parser.stopped:
            self._end(None, error)
            self.cancel()

    @property
    def queue_position(self) -> int:
        """The position in the queue: 1 is next, 0 is not queued."""
        return self._request.position if self._request is not None else 0

    def abandon(self) -> None:
        """Cancel, and report the end without a consumer. Idempotent."""
        self.cancel()
        self._notify_end()

    @property
    def usage(self) -> TokenCounts:
        """Tokens used so far, or in all."""
        stats = self._stats or (self._request.stats if self._request else None)
        return TokenCounts(
            prompt_tokens=len(self.prompt.ids),
            cached_tokens=stats.cached_tokens if stats else 0,
            completion_tokens=self._completion_tokens,
            reasoning_tokens=self.parser.reasoning_tokens,
        )

    @property
    def stats(self) -> Statistics | None:
        """Statistics of the generation, once it has ended."""
        return self._stats and self.parser.with_stop_string(self._stats)

    @property
    def finish_reason(self) -> str:
        """stop, length, tool_calls or cancelled, once the answer has ended.

        It is tool_calls only if a call is complete.
        """
        stats = self.stats
        reason = (stats.finish_reason if stats else None) or CANCELLED
        if reason in (STOP, TOOL_CALLS):
            return TOOL_CALLS if self.parser.has_called else STOP
        return reason

    @property
    def finish_details(self) -> tuple[str, ...]:
        """The parts that were cut short: see Statistics."""
        stats = self.stats
        return stats.finish_details if stats else ()

    async def __aiter__(self) -> AsyncGenerator[ParsedToken]:
        """Yield the answer to its end; raise what the model's thread raised."""
        try:
            while (step := await self._steps.get()) is not None:
                if isinstance(step, PromptProgress):
                    yield ParsedToken((), progress=step)
                    continue
                if self.parser.stopped:
                    continue
                self._completion_tokens += 1
                yield self.parser.feed(step)
                self._note_read()
                if self.parser.stopped:
                    self.cancel()
            if self._error is not None:
                raise self._error
            last = self.parser.finish()
            self._notify_end()
            yield last
        finally:
            self.cancel()

    def _note_read(self) -> None:
        """Tell the model's thread that the consumer has read one more token."""
        self._read_steps += 1
        if self._request is not None:
            self._request.read(self._read_steps)

    def _notify_end(self) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self)

    def _submit(self) -> None:
        meter = PromptMeter(
            len(self.prompt.ids),
            lambda progress: self._call_in_loop(self._add_progress, progress),
        )
        self._request = meter.source = self._runtime.submit(
            self.prompt.ids,
            self.prompt.params,
            guide=self.prompt.guide,
            shared=self.prompt.shared,
            group=self._group,
            run_ahead=RUN_AHEAD,
            on_step=lambda step: self._call_in_loop(self._add_step, step),
            on_end=lambda stats, error: self._call_in_loop(self._end, stats, error),
            on_prompt=lambda found: self._call_in_loop(self._set_prompt, found),
            on_progress=meter,
            adapter=self.prompt.adapter,
        )
        if self._cancelled:  # while this thread was submitting
            self._request.cancel()

    def _call_in_loop(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call a function in the event loop, from any thread."""
        self._runtime.call_in_loop(self._loop, function, *arguments)

    def _add_progress(self, progress: PromptProgress) -> None:
        if self._started:  # a preempted answer reads its prompt again
            return
        self.progress = progress
        if self.prompt.reports_progress:
            self._steps.put_nowait(progress)
        self.on_progress(progress)

    def _set_prompt(self, logprobs: PromptLogprobs) -> None:
        self.prompt_logprobs = logprobs

    def _add_step(self, step: Step) -> None:
        self._started, self.progress = True, None
        self._steps.put_nowait(step)

    def _end(self, stats: Statistics | None, error: BaseException | None) -> None:
        if self._ended:  # the first end counts
            return
        self._ended = True
        self._started, self.progress = True, None
        self._stats, self._error = stats, error
        self._steps.put_nowait(None)


async def start_answers(
    runtime: Runtime,
    prompts: Sequence[PreparedPrompt],
    on_end: Callable[[AnswerStream], Any] | None = None,
) -> list[AnswerStream]:
    """Start an answer to each prompt; prefill equal prompts once.

    They are one group: once the first is admitted, the others may queue. If one cannot
    start, the others are cancelled and its error is raised.
    """
    answers: list[AnswerStream] = []
    group = object()
    try:
        for prompt in prompts:
            answers.append(AnswerStream(runtime, prompt, on_end, group))
            await answers[-1].start()
    except BaseException:
        for answer in answers:
            answer.cancel()
        raise
    return answers


async def merge_answers(
    answers: Sequence[AnswerStream],
) -> AsyncIterator[tuple[int, ParsedToken | None]]:
    """Interleave answers as tokens arrive: (index, token), (index, None) at its end."""
    if len(answers) == 1:
        async with aclosing(aiter(answers[0])) as tokens:
            async for token in tokens:
                yield 0, token
        yield 0, None
        return
    # Bounded, so that answers that are not consumed are not read either.
    queue: asyncio.Queue[tuple[int, ParsedToken | Exception | None]] = asyncio.Queue(
        len(answers)
    )

    async def read(index: int, answer: AnswerStream) -> None:
        try:
            async with aclosing(aiter(answer)) as tokens:
                async for token in tokens:
                    await queue.put((index, token))
            await queue.put((index, None))
        except Exception as error:  # raised again below, in the consumer's task
            await queue.put((index, error))

    tasks = [asyncio.create_task(read(*pair)) for pair in enumerate(answers)]
    try:
        left = len(answers)
        while left:
            index, token = await queue.get()
            if isinstance(token, Exception):
                raise token
            left -= token is None
            yield index, token
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
