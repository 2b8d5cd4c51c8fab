"""The conversations of the page: found, begun, asked, changed and deleted.

Everything that blocks (the file of chats, the tokenizer) runs in threads. For one event
loop.
"""

import asyncio
import json
from typing import TYPE_CHECKING, Any

from mlx_gptoss.chat import Chat, saved
from mlx_gptoss.chat.history import (
    end_of_turn,
    forgotten_after_edit,
    question_indexes,
    start_of_turn,
)
from mlx_gptoss.chat.sessions import as_markdown
from mlx_gptoss.engine.prompt_cache import clear_files
from mlx_gptoss.server.web.answering import count_tokens
from mlx_gptoss.server.web.answers import Answers, refuse_second
from mlx_gptoss.server.web.chat_settings import ChatSettings, settings_of
from mlx_gptoss.server.web.conversation import (
    Data,
    OpenConversation,
    changed_data,
    new_data,
)
from mlx_gptoss.server.web.saved_chats import SavedChats
from mlx_gptoss.server.web.versions import FAMILY

if TYPE_CHECKING:
    from mlx_gptoss.server.web.page import WebPage

MOST_OPEN = 8  # conversations whose tools keep running


class Conversations:
    """The conversations of `page`, by id."""

    def __init__(self, page: "WebPage") -> None:
        self._page = page
        self._open: dict[str, OpenConversation] = {}  # the last used comes last
        self._chats = SavedChats(page.store)
        self._answers = Answers(page, self._chats)

    @property
    def answering(self) -> list[OpenConversation]:
        """The conversations with an answer in progress."""
        return [one for one in self._open.values() if one.answer is not None]

    async def summaries(self, search: str = "") -> list[dict[str, Any]]:
        """Return the conversations, or those that match, the latest first.

        Of a family, the latest stands for all.
        """
        rows = await self._chats.summaries(search)
        known = {id for row in rows.values() for id in row.pop("ids")}
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
        data, versions = await self._chats.load(id)
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
        self._answers.start(made, data, question, session)
        self._open[made.id] = made
        return made

    async def ask(self, id: str, question: str, session: str) -> OpenConversation:
        """Ask the next question of a conversation."""
        found = await self.open(id)
        self._answers.start(found, found.data, question, session)
        return found

    async def redo(
        self, id: str, turn: int, question: str | None, session: str
    ) -> OpenConversation:
        """Ask another question at a turn, or (None) the same one again.

        A turn that has an answer stays as it is: the new one is another version, in a
        conversation of its own. Raises ApiError (400, 409).
        """
        found = await self.open(id)
        refuse_second(found)
        if found.unsent is not None and turn == len(found.turns) + 1:
            self._answers.start(found, found.data, question or found.unsent, session)
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
            self._answers.start(found, data, asked, session)
            return found
        made = await self._branch(found, data)
        self._answers.start(made, made.data, asked, session)
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
        _, chosen = await self._chats.family(id)
        every = {id, *chosen}
        for one in every:
            await self.stop(one)
        await self._wait_for_answers(every)
        count = await self._chats.delete(chosen)
        for one in every:
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
        return settings_of(found.data, self._page)

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
        await self._answers.wait()
        for one in self._open.values():
            await asyncio.to_thread(one.close_tools)
        self._open.clear()

    # Internal

    async def _branch(self, found: OpenConversation, data: Data) -> OpenConversation:
        """Return a new conversation of the same family with the history of `data`."""
        family, _ = await self._chats.family(found.id)
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

    async def _write(self, found: OpenConversation, data: Data) -> None:
        await self._chats.write(found, data)
        self._page.list_changed()

    async def _close_oldest(self) -> None:
        idle = [one for one in self._open.values() if one.answer is None]
        for one in idle[: max(0, len(idle) - MOST_OPEN)]:
            self._open.pop(one.id, None)
            await asyncio.to_thread(one.close_tools)

    async def _wait_for_answers(self, ids: set[str]) -> None:
        while any(one.id in ids for one in self.answering):
            await asyncio.sleep(0.02)


def cut_data(data: Data, length: int) -> Data:
    """Return a conversation with its first `length` messages only."""
    messages = list(saved.from_json(data).messages[:length])
    forgotten = forgotten_after_edit(messages, min(data["forgotten"], length))
    return data | {
        "messages": data["messages"][:length],
        "forgotten": forgotten if question_indexes(messages) else 0,
        "waiting": [],
    }
