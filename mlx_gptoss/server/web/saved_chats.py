"""The saved conversations, as the page lists, reads and writes them.

A family of versions is one row. Everything that blocks runs in threads. For one event
loop.
"""

import asyncio
from typing import Any

from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.chat import saved
from mlx_gptoss.chat.sessions.stored_state import StoredState
from mlx_gptoss.errors import SessionError
from mlx_gptoss.server.web.conversation import Data, OpenConversation
from mlx_gptoss.server.web.memory_store import ChatStore
from mlx_gptoss.server.web.versions import family_of, members, versions_of_turns

Versions = list[dict[str, Any] | None]


class SavedChats:
    """The conversations in a store."""

    def __init__(self, store: ChatStore) -> None:
        self.store = store
        self._changing = asyncio.Lock()  # one change of the store at a time

    async def summaries(self, search: str = "") -> dict[str, dict[str, Any]]:
        """Return the rows of conversations, or of those that match, by family.

        The latest comes first, and stands for all of its family; `ids` are all.
        """
        if search.strip():
            hits = await asyncio.to_thread(self.store.search, search)
            found = [(hit.chat, hit.snippet) for hit in hits]
        else:
            summaries = await asyncio.to_thread(self.store.list)
            found = [(one, "") for one in summaries]
        notes = await asyncio.to_thread(self.store.notes)
        rows: dict[str, dict[str, Any]] = {}
        for summary, snippet in found:
            family = family_of(summary.id, notes)
            if family in rows:
                rows[family]["versions"] += 1
                rows[family]["ids"].append(summary.id)
                continue
            rows[family] = {
                "id": summary.id,
                "ids": [summary.id],
                "title": summary.title,
                "updated": summary.updated,
                "turns": summary.turns,
                "versions": 1,
                "snippet": snippet,
            }
        return rows

    async def load(self, id: str) -> tuple[Data, Versions]:
        """Read a conversation and the versions of its turns. Raises ApiError (404)."""
        return await asyncio.to_thread(self._load, id)

    async def write(self, found: OpenConversation, data: Data) -> None:
        """Save a conversation without a model, and show it. Raises SessionError."""
        async with self._changing:
            await asyncio.to_thread(self.store.save, StoredState(data))
        found.is_saved = True
        found.show(data)

    async def family(self, id: str) -> tuple[str, list[str]]:
        """Return the name of a conversation's family, and its saved members."""
        notes = await asyncio.to_thread(self.store.notes)
        ids = [one.id for one in await asyncio.to_thread(self.store.list)]
        family = family_of(id, notes)
        return family, members(family, ids, notes)

    async def delete(self, ids: list[str]) -> int:
        """Delete conversations; return how many there were."""
        async with self._changing:
            return await asyncio.to_thread(self.store.delete_all, ids)

    def _load(self, id: str) -> tuple[Data, Versions]:
        store = self.store
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
