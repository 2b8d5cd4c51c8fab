"""The conversation for programs with an event loop.

    reply = await AsyncChat(runtime).ask("Is it raining in Paris?")
    print(reply.answer)

No thread waits while the model answers: its thread wakes the event loop with each
token. Rendering a prompt and ending an answer early borrow one for a moment.
"""

from collections.abc import AsyncGenerator
from typing import Any

from mlx_gptoss.chat.base_chat import BaseChat
from mlx_gptoss.chat.drive import drive_async
from mlx_gptoss.chat.history import edited, up_to_last_question
from mlx_gptoss.chat.reply import Reply, ReplyBuilder
from mlx_gptoss.chat.reply_format import ReplyFormat
from mlx_gptoss.chat.turn_work import RunningTurn
from mlx_gptoss.errors import AnswerTimeout
from mlx_gptoss.harmony.events import Event


class AsyncChat(BaseChat):
    """A conversation with a model, for asyncio: a Chat whose answers are awaited.

        chat = AsyncChat(runtime, effort="low")
        reply = await chat.ask("What is 417 + 285?", timeout=60)
        async for event in chat.send("And 1 more?"):
            ...

    The arguments are those of Chat, and so are all attributes and the methods that do
    not answer (`messages`, `branch`, `undo`, `to_json`, `cancel`, ...); these return at
    once and are not awaited. The event loop is never blocked, and no thread waits for
    an answer: thousands of chats may, of which the runtime computes
    `BatchOptions.max_running` (16 by default) at a time.

    Cancelling the task that awaits an answer (as `asyncio.timeout`, a TaskGroup or a
    web framework does) ends that answer within a decode step or a chunk of the prompt,
    and the chat keeps what was generated. So does leaving an `async for` early.

    Tools that are async functions, and an async `approve`, run in this event loop;
    plain functions run in a thread of their own, also with `tool_seconds=None`.
    `on_change` is called in the event loop, which it must not block.

    One answer at a time, as with Chat: a second task needs a chat of its own (`branch`
    copies one). Load the model with `await asyncio.to_thread(load, "demo")`.

    Raises PromptError for a model that does not speak Harmony.
    """

    async def ask(
        self, text: str, *, response_format: Any = None, timeout: float | None = None
    ) -> Reply:
        """Send `text` and return the whole answer as a Reply; tools run as in `send`.

        `response_format`, `timeout` and errors are those of `Chat.ask`: AnswerTimeout,
        AnswerFormatError, PromptError, ModelError. Cancelling this ends the answer.
        """
        reader = ReplyFormat.of(response_format, self.constraints)
        turn = self._turns.ask(
            lambda: self.transcript.with_question(text), reader.to_enforce
        )
        return await read_reply(self, turn, reader, timeout, prompt=text)

    def send(self, text: str, *, timeout: float | None = None) -> AsyncGenerator[Event]:
        """Send `text` and yield the events of the turn, up to and including a Done.

        For use with `async for`. Events, `timeout` and errors are those of `Chat.send`.
        Leaving the loop early ends the answer soon; to have it ended when a block is
        left, use `async with contextlib.aclosing(chat.send(...)) as events`.
        """
        turn = self._turns.ask(lambda: self.transcript.with_question(text))
        return self._drive(turn, timeout)

    def regenerate(self, *, timeout: float | None = None) -> AsyncGenerator[Event]:
        """Drop the last answer, complete or not, and answer the question again.

        Events, `timeout` and errors are those of `Chat.send`.
        """
        turn = self._turns.ask(lambda: up_to_last_question(self.messages))
        return self._drive(turn, timeout)

    def edit(
        self, turn: int, text: str, *, timeout: float | None = None
    ) -> AsyncGenerator[Event]:
        """Replace the question of a turn (the first is 1), and drop all that followed.

        As `Chat.edit`.
        """
        edit = self._turns.ask(lambda: edited(self.messages, turn, text))
        return self._drive(edit, timeout)

    def submit_result(
        self, call_id: str, text: str, *, timeout: float | None = None
    ) -> AsyncGenerator[Event]:
        """Answer a waiting call, at once; iterate to let the model continue.

        As `Chat.submit_result`.
        """
        return self._drive(self._turns.submit_result(call_id, text), timeout)

    def _drive(
        self, turn: RunningTurn[None], timeout: float | None
    ) -> AsyncGenerator[Event]:
        return drive_async(turn, self._turns.leaving, timeout)


async def read_reply(
    chat: BaseChat,
    turn: RunningTurn[None],
    reader: ReplyFormat,
    timeout: float | None,
    *,
    prompt: Any = None,
) -> Reply:
    """Drive a turn of `chat` and return its Reply; errors are those of `ask`."""
    builder = ReplyBuilder(prompt)
    try:
        async for event in drive_async(turn, chat._turns.leaving, timeout):
            builder.add(event)
    except AnswerTimeout as error:
        error.reply = builder.cut_short(chat._turns.stats)
        raise
    return reader.parse(builder.reply())
