"""The answers of the page's conversations: begun, run by their chats, and ended.

What arrives is written to a journal before any tab sees it; at its end an answer is
saved with its figures. For one event loop.
"""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mlx_gptoss.api.errors import ApiError, as_api_error
from mlx_gptoss.chat import Chat, saved
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.errors import SessionError
from mlx_gptoss.server.web.answering import AnswerInProgress, describe_stats
from mlx_gptoss.server.web.chat_settings import ChatSettings, settings_of
from mlx_gptoss.server.web.conversation import Data, OpenConversation, changed_data
from mlx_gptoss.server.web.figures import with_figures
from mlx_gptoss.server.web.saved_chats import SavedChats
from mlx_gptoss.server.web.tools import OpenedTools

if TYPE_CHECKING:
    from mlx_gptoss.server.web.page import WebPage

log = logging.getLogger(__name__)

STOPPED = "the server was stopped before this question could be answered"


class Answers:
    """Answers questions in the conversations of `page`."""

    def __init__(self, page: "WebPage", chats: SavedChats) -> None:
        self._page = page
        self._chats = chats
        self._tasks: set[asyncio.Task[None]] = set()

    def start(
        self, found: OpenConversation, data: Data, question: str, session: str
    ) -> None:
        """Start to answer a question behind the history of `data`.

        Raises ApiError (400, 409, 503).
        """
        refuse_second(found)
        if (refusal := self._page.drain.refusal()) is not None:
            raise refusal
        if not question.strip():
            raise ApiError(400, "the question is empty", "invalid_value", "text")
        answer = AnswerInProgress(question, found.approvals)
        self._open_journal(found, data, answer)
        found.approvals.begin(session)
        found.begin(answer, data)
        self._run(self._answer(found, data, answer))
        self._page.list_changed()

    async def wait(self) -> None:
        """Wait until all answers have ended."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _open_journal(
        self, found: OpenConversation, data: Data, answer: AnswerInProgress
    ) -> None:
        journal = self._chats.store.journal(found.id)
        if journal is None:
            return
        as_saved = found.is_saved and data is found.data
        answer.journal = journal
        answer.write_journal(
            question=answer.question,
            updated=found.data["updated"] if found.is_saved else None,
            data=None if as_saved else data,
        )

    async def _answer(
        self, found: OpenConversation, data: Data, answer: AnswerInProgress
    ) -> None:
        """Answer, then show what was saved."""
        page, problem = self._page, None
        untrack = page.drain.track([answer])
        settings = settings_of(found.data, page)
        try:
            choice = page.models.resolve(settings.model)
            await self._guard(answer.question, settings)
            async with page.models.lease(choice.model) as runtime:
                prepare = partial(self._prepare, found, data, answer, runtime, settings)
                await answer.run(partial(prepare, choice.adapter), found.take)
        except Exception as error:
            problem = as_api_error(error).message
        finally:
            untrack()
            await asyncio.to_thread(answer.close_journal)
        if not answer.sent and problem is None:
            problem = STOPPED if page.drain.started else None
        found.problem = found.problem or problem
        await self._finish(found, answer, found.problem)

    async def _guard(self, question: str, settings: ChatSettings) -> None:
        """Raise ApiError for a question that a guard refuses."""
        policies = self._page.policies
        if policies is not None:
            texts = filter(None, [settings.system, question])
            refusal = await policies.refusal(self._page.models, texts)
            if refusal is not None:
                raise ApiError(403, refusal.message, "content_filter", "text")

    async def _finish(
        self, found: OpenConversation, answer: AnswerInProgress, problem: str | None
    ) -> None:
        """Show what was saved of an answer that has ended, with its figures."""
        changes = found.data if found.changed else None
        with suppress(ApiError):
            data, versions = await self._chats.load(found.id)
            found.is_saved = True
            found.show(data)
            answer.shown = answer.sent
            found.versions = versions
        later = found.data
        if answer.sent:
            later = with_figures(later, found.turns, self._figures(answer))
        if changes is not None:
            found.changed = False
            settings = ChatSettings.of(changes, self._page.defaults)
            later = changed_data(later, title=changes["title"], settings=settings)
        if found.is_saved and later is not found.data:
            try:
                await self._chats.write(found, later)
            except SessionError as error:
                log.warning("the figures of an answer were not saved: %s", error)
                found.show(later)
        found.used = answer.used or found.used
        found.end(problem=problem)
        self._page.list_changed()

    def _figures(self, answer: AnswerInProgress) -> dict[str, Any]:
        seconds = asyncio.get_running_loop().time() - answer.began
        stats = answer.stats
        return {
            "stats": None if stats is None else describe_stats(stats, seconds),
            "seconds": [item.get("seconds") for item in answer.parts.items],
        }

    def _prepare(
        self,
        found: OpenConversation,
        data: Data,
        answer: AnswerInProgress,
        runtime: Runtime,
        settings: ChatSettings,
        adapter: str | None,
    ) -> Chat:
        """Return the chat that answers, in its thread: with tools that keep running."""
        tools = found.tools
        if tools is None or list(tools.names) != settings.tools:
            found.close_tools()
            tools = found.tools = OpenedTools(self._page.offer, settings.tools)
        chat, wanted = found.chat, saved.from_json(data)
        if chat is None or tuple(chat.messages) != wanted.messages:
            plain = {"notes": {}} | data | {"adapter": None, "version": saved.VERSION}
            chat = Chat.from_json(
                runtime,
                plain,
                tools=tools.tools,
                approve=self._page.offer.approval(found.approvals.ask),
            )
        chat.on_change = None
        chat.title = wanted.title
        chat.runtime, chat.adapter = runtime, adapter
        chat.params = replace(self._page.params, temperature=settings.temperature)
        chat.effort, chat.system = settings.effort, settings.system or None
        chat.notes = {**wanted.notes, **settings.notes}
        chat.on_progress = answer.on_progress
        chat.on_change = partial(self._keep, found, answer)
        found.chat = chat
        return chat

    def _keep(
        self, found: OpenConversation, answer: AnswerInProgress, chat: Chat
    ) -> None:
        """Save a change of a running answer; called in its thread."""
        answer.sent = True
        try:
            self._page.store.save(chat)
        except SessionError as error:
            log.warning("a conversation was not saved: %s", error)
            found.problem = str(error)
        else:
            answer.write_journal(updated=chat.updated.isoformat())
        self._page.in_loop(self._page.list_changed)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def refuse_second(found: OpenConversation) -> None:
    """Raise ApiError (409) while a conversation is being answered."""
    if found.answer is not None:
        raise ApiError(
            409,
            "this conversation is being answered: stop that or wait for its end",
            "answering",
        )
