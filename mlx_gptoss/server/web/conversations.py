"""The conversations of the page: found, begun, asked, changed and deleted.

Everything that blocks (the file of chats, the tokenizer) runs in threads. For one event
loop.
"""

import asyncio
import json
import logging
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mlx_gptoss.api.errors import ApiError, as_api_error
from mlx_gptoss.chat import Chat, saved
from mlx_gptoss.chat.history import (
    end_of_turn,
    forgotten_after_edit,
    question_indexes,
    start_of_turn,
)
from mlx_gptoss.chat.sessions import as_markdown
from mlx_gptoss.engine.prompt_cache import clear_files
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.errors import SessionError
from mlx_gptoss.server.web.answering import (
    AnswerInProgress,
    count_tokens,
    describe_stats,
)
from mlx_gptoss.server.web.chat_settings import ChatSettings
from mlx_gptoss.server.web.conversation import (
    Data,
    OpenConversation,
    StoredState,
    changed_data,
    new_data,
)
from mlx_gptoss.server.web.tools import OpenedTools
from mlx_gptoss.server.web.versions import (
    FAMILY,
    family_of,
    members,
    versions_of_turns,
)

if TYPE_CHECKING:
    from mlx_gptoss.server.web.page import WebPage

log = logging.getLogger(__name__)

MOST_OPEN = 8  # conversations whose tools keep running
STOPPED = "the server was stopped before this question could be answered"


class Conversations:
    """The conversations of `page`, by id."""

    def __init__(self, page: "WebPage") -> None:
        self._page = page
        self._open: dict[str, OpenConversation] = {}  # the last used comes last
        self._tasks: set[asyncio.Task[None]] = set()
        self._storing = asyncio.Lock()  # one change of the store at a time

    @property
    def answering(self) -> list[OpenConversation]:
        """The conversations with an answer in progress."""
        return [one for one in self._open.values() if one.answer is not None]

    async def summaries(self, search: str = "") -> list[dict[str, Any]]:
        """Return the conversations, or those that match, the latest first.

        Of a family, the latest stands for all.
        """
        store = self._page.store
        if search.strip():
            hits = await asyncio.to_thread(store.search, search)
            found = [(hit.chat, hit.snippet) for hit in hits]
        else:
            summaries = await asyncio.to_thread(store.list)
            found = [(one, "") for one in summaries]
        notes = await asyncio.to_thread(store.notes)
        rows: dict[str, dict[str, Any]] = {}
        for summary, snippet in found:
            family = family_of(summary.id, notes)
            if family in rows:
                rows[family]["versions"] += 1
                continue
            rows[family] = {
                "id": summary.id,
                "title": summary.title,
                "updated": summary.updated,
                "turns": summary.turns,
                "versions": 1,
                "snippet": snippet,
            }
        known = {one.id for one, _ in found}
        begun = [
            {
                "id": one.id,
                "title": one.title,
                "updated": one.data["updated"],
                "turns": 1,
                "versions": 1,
                "snippet": "",
            }
            for one in self.answering
            if one.id not in known and not one.is_saved and not search.strip()
        ]
        return [*begun, *rows.values()]

    async def open(self, id: str) -> OpenConversation:
        """Return a conversation in its saved state. Raises ApiError (404)."""
        found = self._open.pop(id, None)
        if found is not None and (found.answer is not None or not found.is_saved):
            self._open[id] = found
            return found
        data, versions = await asyncio.to_thread(self._load, id)
        now = self._open.pop(id, None) or found  # another tab was faster
        if now is None:
            now = OpenConversation(data, self._page.in_loop, is_saved=True)
        elif now.answer is None:
            now.show(data)
        now.versions = versions
        self._open[id] = now
        await self._close_oldest()
        return now

    async def begin(
        self, question: str, settings: ChatSettings, session: str
    ) -> OpenConversation:
        """Begin a conversation with a question."""
        data = new_data(settings)
        made = OpenConversation(data, self._page.in_loop, is_saved=False)
        self._start(made, data, question, session)
        self._open[made.id] = made
        return made

    async def ask(self, id: str, question: str, session: str) -> OpenConversation:
        """Ask the next question of a conversation."""
        found = await self.open(id)
        self._start(found, found.data, question, session)
        return found

    async def redo(
        self, id: str, turn: int, question: str | None, session: str
    ) -> OpenConversation:
        """Ask another question at a turn, or (None) the same one again.

        A turn that has an answer stays as it is: the new one is another version, in a
        conversation of its own. Raises ApiError (400, 409).
        """
        found = await self.open(id)
        self._refuse_second(found)
        if found.unsent is not None and turn == len(found.turns) + 1:
            self._start(found, found.data, question or found.unsent, session)
            return found
        messages = saved.from_json(found.data).messages
        start = start_of_turn(messages, turn)
        asked = messages[start].text if question is None else question
        is_answered = any(
            message.role == "assistant"
            for message in messages[start : end_of_turn(messages, turn)]
        )
        data = cut_data(found.data, start)
        if not is_answered:
            self._start(found, data, asked, session)
            return found
        made = await self._branch(found, data)
        self._start(made, made.data, asked, session)
        return made

    async def branch(self, id: str, turn: int) -> OpenConversation:
        """Begin a conversation that goes on behind a turn, and save it."""
        found = await self.open(id)
        messages = saved.from_json(found.data).messages
        data = cut_data(found.data, end_of_turn(messages, turn))
        made = await self._branch(found, data)
        await self._write(made, made.data)
        return await self.open(made.id)

    async def stop(self, id: str) -> None:
        """Stop the answer in progress, if there is one."""
        found = self._open.get(id)
        if found is not None and found.answer is not None:
            found.answer.stop()
            found.log.restart()

    async def change(
        self, id: str, *, title: str | None, settings: ChatSettings | None
    ) -> OpenConversation:
        """Give a conversation another title or other settings.

        While it answers, they are kept and written at the end of the answer.
        """
        found = await self.open(id)
        data = changed_data(found.data, title=title, settings=settings)
        if found.answer is None and found.is_saved:
            await self._write(found, data)
        else:
            found.data = data
            found.changed = True
        found.log.restart()
        self._page.list_changed()
        return found

    async def delete(self, id: str) -> int:
        """Delete a conversation with all its versions; return how many there were.

        The prompt cache on disk may hold its text, so it is emptied, too.
        """
        store = self._page.store
        notes = await asyncio.to_thread(store.notes)
        ids = [one.id for one in await asyncio.to_thread(store.list)]
        chosen = members(family_of(id, notes), ids, notes)
        for one in {id, *chosen}:
            await self.stop(one)
        await self._wait_for_answers({id, *chosen})
        async with self._storing:
            count = await asyncio.to_thread(store.delete_all, chosen)
        for one in {id, *chosen}:
            closing = self._open.pop(one, None)
            if closing is not None:
                closing.deleted = True
                closing.log.restart()
                await asyncio.to_thread(closing.close_tools)
        if not self._page.private:
            await asyncio.to_thread(clear_files)
        self._page.list_changed()
        return count

    async def export(self, found: OpenConversation, *, as_json: bool) -> str:
        """Return a conversation as Markdown, or as the JSON that `Chat` reads."""
        if as_json:
            return json.dumps(found.data, indent=2) + "\n"
        return await asyncio.to_thread(as_markdown, found.data)

    def settings_of(self, found: OpenConversation) -> ChatSettings:
        """Return the settings of a conversation, of what this server has."""
        page = self._page
        settings = ChatSettings.of(found.data, page.defaults)
        adapter = found.data.get("adapter")
        if settings.model is None and adapter:
            settings.model = f"{page.models.names[0]}:{adapter}"
        if settings.model not in page.model_names:
            settings.model = page.model_names[0]
        settings.tools = [one for one in settings.tools if one in page.offer.tools]
        return settings

    async def measure(self, found: OpenConversation) -> None:
        """Count the tokens of a conversation, if its model is loaded."""
        choice = self._page.models.resolve(self.settings_of(found).model)
        runtime = self._page.models.runtime(choice.model)
        if runtime is None or found.used is not None or found.answer is not None:
            return
        data = {"notes": {}} | found.data | {"adapter": None, "version": saved.VERSION}
        chat = await asyncio.to_thread(Chat.from_json, runtime, data)
        found.used = await asyncio.to_thread(count_tokens, chat)

    async def close(self) -> None:
        """Stop all answers and tools; what has arrived is saved."""
        for one in self.answering:
            assert one.answer is not None
            one.answer.stop()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for one in self._open.values():
            await asyncio.to_thread(one.close_tools)
        self._open.clear()

    # Internal

    def _start(
        self, found: OpenConversation, data: Data, question: str, session: str
    ) -> None:
        """Start to answer a question behind the history of `data`."""
        self._refuse_second(found)
        if (refusal := self._page.drain.refusal()) is not None:
            raise refusal
        if not question.strip():
            raise ApiError(400, "the question is empty", "invalid_value", "text")
        answer = AnswerInProgress(question, found.approvals)
        found.approvals.begin(session)
        found.begin(answer, data)
        work = self._answer(found, data, answer)
        self._run(work)
        self._page.list_changed()

    def _refuse_second(self, found: OpenConversation) -> None:
        if found.answer is not None:
            raise ApiError(
                409,
                "this conversation is being answered: stop that or wait for its end",
                "answering",
            )

    async def _answer(
        self, found: OpenConversation, data: Data, answer: AnswerInProgress
    ) -> None:
        """Answer, then show what was saved."""
        page, problem = self._page, None
        untrack = page.drain.track([answer])
        settings = self.settings_of(found)
        try:
            choice = page.models.resolve(settings.model)
            async with page.models.lease(choice.model) as runtime:
                prepare = partial(self._prepare, found, data, answer, runtime, settings)
                await answer.run(partial(prepare, choice.adapter), found.take)
        except Exception as error:
            problem = as_api_error(error).message
        finally:
            untrack()
        if not answer.sent and problem is None:
            problem = STOPPED if page.drain.started else None
        found.problem = found.problem or problem
        await self._finish(found, answer, found.problem)

    async def _finish(
        self, found: OpenConversation, answer: AnswerInProgress, problem: str | None
    ) -> None:
        """Show what was saved of an answer that has ended."""
        changes = found.data if found.changed else None
        with suppress(ApiError):
            data, versions = await asyncio.to_thread(self._load, found.id)
            found.is_saved = True
            found.show(data)
            found.versions = versions
        if answer.stats is not None:
            seconds = asyncio.get_running_loop().time() - answer.began
            place = len(found.turns) - 1
            found.stats[place] = describe_stats(answer.stats, seconds)
        found.used = answer.used or found.used
        found.end(problem=problem)
        if changes is not None:
            found.changed = False
            later = changed_data(
                found.data,
                title=changes["title"],
                settings=ChatSettings.of(changes, self._page.defaults),
            )
            await self._write(found, later)
            found.log.restart()
        self._page.list_changed()

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
        chat.notes = {**chat.notes, **settings.notes}
        chat.on_progress = answer.on_progress
        chat.on_change = partial(self._keep, found)
        found.chat = chat
        return chat

    def _keep(self, found: OpenConversation, chat: Chat) -> None:
        """Save a change of a running answer; called in its thread."""
        answer = found.answer
        if answer is not None:
            answer.sent = True
        try:
            self._page.store.save(chat)
        except SessionError as error:
            log.warning("a conversation was not saved: %s", error)
            found.problem = str(error)
        self._page.in_loop(self._page.list_changed)

    async def _branch(self, found: OpenConversation, data: Data) -> OpenConversation:
        """Return a new conversation of the same family with the history of `data`."""
        notes = await asyncio.to_thread(self._page.store.notes)
        family = family_of(found.id, notes)
        empty = new_data(self.settings_of(found), {FAMILY: family})
        made = {
            **data,
            **{key: empty[key] for key in ("id", "created", "updated")},
            "version": saved.VERSION,
            "adapter": data.get("adapter"),
            "notes": {**data.get("notes", {}), **empty["notes"]},
        }
        opened = OpenConversation(made, self._page.in_loop, is_saved=False)
        self._open[opened.id] = opened
        return opened

    def _load(self, id: str) -> tuple[Data, list[dict[str, Any] | None]]:
        """Read a conversation and the versions of its turns. Raises ApiError (404)."""
        store = self._page.store
        try:
            data = store.load(id)
        except SessionError as error:
            raise ApiError(
                404, "there is no such conversation (any more)", "not_found"
            ) from error
        notes = store.notes()
        ids = [one.id for one in store.list()] if notes else [id]
        family = members(family_of(id, notes), ids, notes)
        if len(family) < 2:
            return data, []
        loaded = {one: data if one == id else store.load(one) for one in family}
        oldest = sorted(family, key=lambda one: loaded[one]["created"])
        histories = {one: saved.from_json(loaded[one]).messages for one in oldest}
        return data, versions_of_turns(id, histories)

    async def _write(self, found: OpenConversation, data: Data) -> None:
        """Save a conversation without a model, and show it."""
        async with self._storing:
            await asyncio.to_thread(self._page.store.save, StoredState(data))
        found.is_saved = True
        found.show(data)
        self._page.list_changed()

    async def _close_oldest(self) -> None:
        idle = [one for one in self._open.values() if one.answer is None]
        for one in idle[: max(0, len(idle) - MOST_OPEN)]:
            self._open.pop(one.id, None)
            await asyncio.to_thread(one.close_tools)

    async def _wait_for_answers(self, ids: set[str]) -> None:
        while any(one.id in ids for one in self.answering):
            await asyncio.sleep(0.02)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def cut_data(data: Data, length: int) -> Data:
    """Return a conversation with its first `length` messages only."""
    messages = list(saved.from_json(data).messages[:length])
    forgotten = forgotten_after_edit(messages, min(data["forgotten"], length))
    return data | {
        "messages": data["messages"][:length],
        "forgotten": forgotten if question_indexes(messages) else 0,
        "waiting": [],
    }
