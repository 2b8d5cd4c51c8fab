"""Answer many prompts together, and yield the replies as they end.

    for reply in answer_all(runtime, ["What is 1 + 1?", "What is 2 + 2?"]):
        print(reply.index, reply.answer)

Each prompt is an AsyncChat in a task; for `answer_all`, in one thread for all of them.
"""

import asyncio
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Coroutine,
    Generator,
    Iterable,
    Sequence,
)
from concurrent.futures import Future
from dataclasses import replace
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeVar

from mlx_gptoss.chat.async_chat import AsyncChat, read_reply
from mlx_gptoss.chat.base_chat import BaseChat
from mlx_gptoss.chat.reply import Reply
from mlx_gptoss.chat.reply_format import ReplyFormat
from mlx_gptoss.chat.turn_work import check_timeout
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.scheduler.options import DEFAULT_RUNNING
from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.messages import DeveloperContent, Message
from mlx_gptoss.harmony.openai_chat import from_chat_messages

T = TypeVar("T")
Prompt = str | Sequence[Any]
END = object()
ANSWERABLE = ("user", "tool")  # roles of a last message


def answer_all(
    runtime: Runtime,
    prompts: Iterable[Prompt],
    *,
    max_parallel: int = DEFAULT_RUNNING,
    timeout: float | None = None,
    response_format: Any = None,
    **options: Any,
) -> Generator[Reply]:
    """Answer many prompts, decoded together, and yield each Reply when it has ended.

        for reply in answer_all(runtime, questions, effort="low", timeout=120):
            if reply.error is None:
                print(reply.index, reply.answer)

    Replies come in the order in which they end: `reply.index` counts the prompts from
    0, and `reply.prompt` is the prompt. Sixteen at a time take a fraction of the time
    of one after another.

    prompts: any iterable, also an endless one. Each item is a question (text), a
        conversation (OpenAI's chat messages: a list of dicts with `role` and `content`
        that ends with the user's), or `(chat, text)`, which asks a Chat or AsyncChat of
        its own. It is read in the caller's thread, at most `2 * max_parallel` items
        ahead of the replies that were taken, and memory is bounded accordingly.
    max_parallel: most prompts answered at a time. The runtime computes no more than
        `BatchOptions.max_running` (16 unless `load(..., batch=)` says otherwise).
    timeout: most seconds for each prompt, from when its answer begins, tools included.
    response_format: as in `Chat.ask`; `reply.parsed` has the values.
    options: those of Chat (`system`, `effort`, `params`, `tools`, `approve`, ...), for
        every item but `(chat, text)`. Tools are shared and may run at the same time, in
        threads of their own; a notebook or a browser, which keep a state, need a
        `(chat, text)` for each prompt. `on_change` is called in another thread.

    An error of one prompt (too long, a timeout, an answer without its format, ...) does
    not end the others: it is `reply.error`, with the text that came until then, if any;
    `reply.raise_for_error()` raises it. Errors in the arguments raise PromptError at
    once; those of the `prompts` iterator, and GptOssError for a runtime that is closed,
    end the iteration.

    Leaving the loop, or `close()`, ends all answers in progress and frees their places
    in the batch. Within an event loop use `answer_all_async`.
    """
    batch = PromptBatch(runtime, max_parallel, timeout, response_format, options)
    return _in_thread(batch, iter(_checked(prompts)))


def answer_all_async(
    runtime: Runtime,
    prompts: Iterable[Prompt] | AsyncIterable[Prompt],
    *,
    max_parallel: int = DEFAULT_RUNNING,
    timeout: float | None = None,
    response_format: Any = None,
    **options: Any,
) -> AsyncGenerator[Reply]:
    """Do what `answer_all` does, for `async for`, without blocking the event loop.

    `prompts` may also be an async iterable. Async tools, an async `approve` and
    `on_change` run in the event loop, as with AsyncChat. Cancelling the task, or
    leaving the loop, ends all answers in progress.
    """
    batch = PromptBatch(runtime, max_parallel, timeout, response_format, options)
    return _in_loop(batch, _as_async(_checked(prompts)))


class PromptBatch:
    """The settings of all prompts; answers one of them, with a place among others.

    Raises PromptError for settings that no prompt could be answered with.
    """

    def __init__(
        self,
        runtime: Runtime,
        max_parallel: int,
        timeout: float | None,
        response_format: Any,
        options: dict[str, Any],
    ) -> None:
        if type(max_parallel) is not int or max_parallel < 1:
            raise PromptError(
                f"`max_parallel` is {max_parallel!r}: give a whole number, 1 or more"
            )
        self.most_taken = 2 * max_parallel  # so that the next ones wait while some end
        self._places = asyncio.Semaphore(max_parallel)
        self._timeout = check_timeout(timeout)
        self._runtime = runtime
        self._template = AsyncChat(runtime, **options)
        self._given = response_format
        self._reader = ReplyFormat.of(response_format, self._template.constraints)

    async def answer(self, index: int, prompt: Any) -> Reply:
        """Return the reply, with its error if it has one.

        Raises GptOssError if the runtime is closed.
        """
        try:
            async with self._places:
                reply = await self._ask(prompt)
        except Exception as error:
            if self._runtime.closed:
                raise
            reply = replace(getattr(error, "reply", None) or Reply(), error=error)
        return replace(reply, prompt=prompt, index=index)

    async def _ask(self, prompt: Any) -> Reply:
        if isinstance(prompt, tuple) and len(prompt) == 2:
            chat, text = prompt
            if isinstance(chat, BaseChat):
                reader = ReplyFormat.of(self._given, chat.constraints)
                turn = chat._turns.ask(
                    lambda: chat.transcript.with_question(text), reader.to_enforce
                )
                return await read_reply(chat, turn, reader, self._timeout)
        chat, reader = self._template.branch(), self._reader
        messages = _conversation(prompt, chat)
        turn = chat._turns.ask(lambda: messages, reader.to_enforce, goes_on=False)
        return await read_reply(chat, turn, reader, self._timeout)


def _checked(prompts: T) -> T:
    """Return the prompts, unless they are one text: it would be asked by character."""
    if isinstance(prompts, str):
        raise PromptError("`prompts` is one text: give a list of them, or use `ask`")
    return prompts


def _conversation(prompt: Any, chat: AsyncChat) -> list[Message]:
    """Return the history to answer; instructions in it become those of `chat`."""
    if isinstance(prompt, str):
        return chat.transcript.with_question(prompt)
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes | tuple):
        raise PromptError(
            f"a prompt is {type(prompt).__name__}: give text, a list of messages, or "
            "(chat, text)"
        )
    messages = from_chat_messages(prompt)[1:]  # without the system message
    if messages and isinstance(messages[0].content, DeveloperContent):
        given = messages.pop(0).content
        assert isinstance(given, DeveloperContent)
        chat.system = given.instructions
    if not messages or messages[-1].role not in ANSWERABLE:
        raise PromptError(
            "a conversation has no question at its end: let its last message be the "
            "user's"
        )
    return messages


def _in_thread(batch: PromptBatch, prompts: Iterable[Prompt]) -> Generator[Reply]:
    numbered, taken = enumerate(prompts), 0
    ended: SimpleQueue[Future[Reply]] = SimpleQueue()
    with LoopThread() as loop:
        while True:
            while taken < batch.most_taken:
                item = next(numbered, None)
                if item is None:
                    break
                loop.start(batch.answer(*item)).add_done_callback(ended.put)
                taken += 1
            if not taken:
                return
            reply = ended.get().result()
            taken -= 1
            yield reply


async def _in_loop(
    batch: PromptBatch, prompts: AsyncIterator[Prompt]
) -> AsyncGenerator[Reply]:
    taken, place = set[asyncio.Task[Reply]](), 0
    try:
        while True:
            while len(taken) < batch.most_taken:
                item = await anext(prompts, END)
                if item is END:
                    break
                taken.add(asyncio.create_task(batch.answer(place, item)))
                place += 1
            if not taken:
                return
            ended, _ = await asyncio.wait(taken, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                taken.remove(task)
                yield task.result()
    finally:
        for task in taken:
            task.cancel()
        await asyncio.gather(*taken, return_exceptions=True)


async def _as_async(
    prompts: Iterable[Prompt] | AsyncIterable[Prompt],
) -> AsyncGenerator[Prompt]:
    if isinstance(prompts, AsyncIterable):
        async for prompt in prompts:
            yield prompt
    else:
        for prompt in prompts:
            yield prompt


class LoopThread:
    """An event loop in a thread of its own, for the length of a `with`.

    At its end, what still runs there is cancelled and waited for.
    """

    def __init__(self) -> None:
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="answers")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._begun.wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._loop is not None and self._ended is not None
        self._loop.call_soon_threadsafe(self._ended.set)
        if threading.current_thread() is not self._thread:  # a collected generator
            self._thread.join()

    def start(self, work: Coroutine[Any, Any, Reply]) -> "Future[Reply]":
        """Run a coroutine in the loop; return at once."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _run(self) -> None:
        asyncio.run(self._serve())  # cancels what is left at its end

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        self._begun.set()
        await self._ended.wait()
