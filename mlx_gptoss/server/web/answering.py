"""An answer in progress: a thread that runs the chat, and its parts so far.

    answer = AnswerInProgress(question, approvals)
    await answer.run(lambda: prepare(runtime), take)

The thread waits for the model, for tools, and for decisions about calls; what it yields
is taken in the event loop. Stopping keeps what has arrived.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

from mlx_gptoss.chat import Chat
from mlx_gptoss.chat.sessions.answer_journal import AnswerJournal
from mlx_gptoss.engine.outputs import Statistics
from mlx_gptoss.engine.prompt_progress import PromptProgress
from mlx_gptoss.harmony.events import Answer, Done, Event, Preamble, Reasoning
from mlx_gptoss.harmony.render.prompt import render_messages
from mlx_gptoss.server.web.approvals import ApprovalInterrupted, Approvals
from mlx_gptoss.server.web.turn_items import TEXT_KINDS, TurnItems

log = logging.getLogger(__name__)


class AnswerInProgress:
    """One answer of a conversation, from its question to its end."""

    def __init__(self, question: str, approvals: Approvals) -> None:
        self.question = question
        self.parts = TurnItems()
        self.chat: Chat | None = None  # once the model is loaded
        self.sent = False  # the question is in the history
        self.shown = False  # with what is saved: its conversation has its turn
        self.error: Exception | None = None
        self.stats: Statistics | None = None
        self.used: int | None = None  # tokens of the history afterwards
        self.reading: PromptProgress | None = None
        self.stopping = False
        self.began = time.monotonic()
        self.journal: AnswerJournal | None = None  # what arrives, until it is saved
        self._approvals = approvals

    def stop(self) -> None:
        """End the answer and keep what has arrived; from any thread."""
        self.stopping = True
        self._approvals.interrupt()
        if self.chat is not None:
            self.chat.cancel()

    def fail(self, error: Exception) -> None:
        """End the answer because the server ends: what has arrived is saved."""
        self.stop()

    def write_journal(self, **head: Any) -> None:
        """Begin the journal anew (see `AnswerJournal.begin`), if there is one."""
        self._journal(lambda journal: journal.begin(**head))

    def close_journal(self) -> None:
        """Remove the journal: what arrived is saved, or nothing may be."""
        journal, self.journal = self.journal, None
        if journal is not None:
            journal.close()

    def on_progress(self, progress: PromptProgress) -> None:
        """Note how much of the prompt is read; also where a stop takes effect."""
        self.reading = None if progress.finished else progress
        if self.stopping and self.chat is not None:
            self.chat.cancel()

    async def run(
        self, prepare: Callable[[], Chat], take: Callable[[Event], object]
    ) -> None:
        """Answer in a thread; `take` is called in the event loop with each event.

        Raises what the model or the preparation does.
        """
        loop = asyncio.get_running_loop()

        def work() -> None:
            chat = prepare()
            self.chat = chat
            if self.stopping:
                return
            with closing(chat.send(self.question)) as events:
                try:
                    for event in events:
                        self.sent = True
                        self.reading = None
                        if isinstance(event, Done):
                            self.stats = event.stats
                        self._note(event)
                        loop.call_soon_threadsafe(take, event)
                except ApprovalInterrupted:
                    self.sent = True
            self.used = count_tokens(chat)

        await run_in_thread(work, name="answer of the page")

    def _note(self, event: Event) -> None:
        """Write the text of an event to the journal, before it is shown."""
        kind = TEXT_KINDS.get(type(event))
        if kind is not None:
            assert isinstance(event, Reasoning | Preamble | Answer)
            text = event.text
            self._journal(lambda journal: journal.add(kind, text))

    def _journal(self, write: Callable[[AnswerJournal], None]) -> None:
        if self.journal is None:
            return
        try:
            write(self.journal)
        except OSError as error:
            log.warning("an answer is kept at its end only: %s", error)
            self.close_journal()


def count_tokens(chat: Chat) -> int:
    """Return the tokens of a conversation as the model reads it."""
    tokenizer = chat.runtime.tokenizer
    return len(render_messages(chat.conversation, tokenizer, complete=False))


def describe_stats(stats: Statistics, seconds: float) -> dict[str, Any]:
    """Return what the page shows of an answer's statistics."""
    return {
        "tokens": stats.completion_tokens,
        "prompt": stats.prompt_tokens,
        "cached": stats.cached_tokens,
        "speed": round(stats.generation_tokens_per_second, 1),
        "seconds": round(seconds, 1),
    }


async def run_in_thread(work: Callable[[], None], *, name: str) -> None:
    """Run `work` in a thread of its own: it may wait long, which pools do not like."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def finish(error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def target() -> None:
        error: BaseException | None = None
        try:
            work()
        except BaseException as raised:  # raised again in the event loop
            error = raised
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(finish, error)

    threading.Thread(target=target, daemon=True, name=name).start()
    await done
