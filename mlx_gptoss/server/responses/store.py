"""Responses on disk: one private SQLite file, bounded in count and size.

    store = ResponseStore.open(folder / "responses.sqlite3")
    store.save(StoredResponse(reply, items, previous))
    store.history(id)          # the items of a conversation, oldest first

The least recently used responses are evicted first. Using a response also marks the
earlier ones of its conversation, so a conversation is never evicted start first.
Deleted data is overwritten. Knows JSON values, not their meaning. Thread-safe.
"""

import json
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_gptoss.api.responses.items import CONTINUES_ANSWER
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.api.wire import JsonObject
from mlx_gptoss.errors import GptOssError, StorageError
from mlx_gptoss.server.responses.database import DamagedError, Database

log = logging.getLogger(__name__)

FILE = "responses.sqlite3"
MAX_RESPONSES = 10_000
MAX_BYTES = 512 * 2**20
TICK = 1e-6  # seconds: keeps use times increasing even if the clock goes back

# Schema migrations: script n upgrades version n to n + 1.
STEPS = (
    """
    create table responses (
        id text primary key, previous text, used real not null,
        number integer not null, bytes integer not null, reply text not null,
        items text not null
    );
    create index by_use on responses (used);
    create table items (
        id text primary key, response text not null
            references responses (id) on delete cascade
    );
    create index by_response on items (response)
    """,
    # An item may be part of several responses; it belongs to the first.
    """
    create table parts (
        item text not null,
        response text not null references responses (id) on delete cascade,
        primary key (item, response)
    ) without rowid;
    create index parts_by_response on parts (response);
    insert into parts select id, response from items;
    drop table items
    """,
)
VERSION = len(STEPS)
CHAIN = """
with recursive chain (id, previous, depth) as (
    select id, previous, 0 from responses where id = ?
    union
    select r.id, r.previous, depth + 1
    from responses r join chain on r.id = chain.previous
)
"""
PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "custom_tool_call": "ctc",
    "tool_search_call": "tsc",
    "tool_search_output": "tso",
    "additional_tools": "at",
    "compaction": "cmp",
}


@dataclass(frozen=True)
class StoredResponse:
    """A response as it was sent, and its input items.

    With `continues`, it continues the assistant message at the end of the input.
    """

    reply: JsonObject
    items: list[JsonObject]
    previous: str | None = None
    continues: bool = False


def open_store(settings: ServerSettings) -> "ResponseStore | None":
    """Open the store that the settings name; None if they name none."""
    if settings.store is None:
        return None
    return ResponseStore.open(settings.store / FILE)


class ResponseStore:
    """The store. All methods raise StorageError when the disk fails."""

    def __init__(
        self, database: Database, *, max_responses: int, max_bytes: int
    ) -> None:
        self._database = database
        self.max_responses = max_responses
        self.max_bytes = max_bytes

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        max_responses: int = MAX_RESPONSES,
        max_bytes: int = MAX_BYTES,
    ) -> "ResponseStore":
        """Open the store, creating it if needed; a damaged file is moved aside.

        Raises GptOssError if the path cannot be used. A full or read-only disk only
        logs a warning, because that may change later.
        """
        database = Database(path, STEPS)
        try:
            database.read(_count)
        except StorageError as error:
            if not error.full:
                raise GptOssError(
                    f"the store of responses `{path}` cannot be used "
                    f"({error.reason}): give another folder, or keep nothing with "
                    "--no-store"
                ) from error
            log.warning("responses cannot be stored for now: %s", error)
        else:
            if not os.access(path, os.W_OK):
                log.warning(
                    "responses cannot be stored for now: `%s` is read-only", path
                )
        return cls(database, max_responses=max_responses, max_bytes=max_bytes)

    def save(self, one: StoredResponse) -> bool:
        """Store a response and evict others to make room.

        Items without an id get one. Returns False for a response that is larger than
        the whole store.
        """
        for item in one.items:
            if not _is_valid_key(item.get("id")):
                prefix = PREFIXES.get(str(item.get("type")), "item")
                item["id"] = f"{prefix}_{secrets.token_hex(12)}"
        mark = {CONTINUES_ANSWER: True} if one.continues else {}
        reply, items = json.dumps(one.reply | mark), json.dumps(one.items)
        size = len(reply) + len(items)
        if size > self.max_bytes:
            log.warning("a response of %d bytes is too large to be stored", size)
            return False
        id = one.reply["id"]
        parts = _ids([*one.items, *one.reply.get("output", [])])

        def work(db: sqlite3.Connection) -> None:
            now = _touch(db, one.previous)
            [number] = db.execute(
                "select coalesce(max(number), 0) + 1 from responses"
            ).fetchone()
            db.execute(
                "insert or replace into responses values (?, ?, ?, ?, ?, ?, ?)",
                (id, one.previous, now, number, size, reply, items),
            )
            db.executemany(
                "insert or ignore into parts values (?, ?)",
                [(part, id) for part in parts],
            )
            self._make_room(db)

        self._database.change(work)
        return True

    def load(self, id: str) -> StoredResponse | None:
        """Return a response, or None if it is not stored."""
        if not _is_valid_key(id):
            return None

        def work(db: sqlite3.Connection) -> StoredResponse | None:
            row = db.execute(
                "select reply, items, previous from responses where id = ?", (id,)
            ).fetchone()
            if row is None:
                return None
            reply = _parse(row[0])
            continues = reply.pop(CONTINUES_ANSWER, False)
            return StoredResponse(reply, _parse(row[1]), row[2], continues)

        return self._database.read(work)

    def history(self, id: str) -> list[JsonObject] | None:
        """Return all items up to a response's output, or None if any is missing."""
        if not _is_valid_key(id):
            return None

        def work(db: sqlite3.Connection) -> list[JsonObject] | None:
            rows = db.execute(
                CHAIN + "select r.previous, r.items, r.reply from chain "
                "join responses r on r.id = chain.id order by depth desc",
                (id,),
            ).fetchall()
            if not rows or rows[0][0] is not None:
                return None
            out: list[JsonObject] = []
            for _, items, reply in rows:
                found = _parse(reply)
                output = found.get("output", [])
                if output and found.get(CONTINUES_ANSWER):
                    output[0][CONTINUES_ANSWER] = True
                out += [*_parse(items), *output]
            return out

        found = self._database.read(work)
        if found is not None:
            self._mark_used(id)
        return found

    def find(self, item_id: str) -> JsonObject | None:
        """Return an item by its id, or None if it is not stored.

        If several items share an id, the one of the first response is returned.
        """
        if not _is_valid_key(item_id):
            return None

        def work(db: sqlite3.Connection) -> JsonObject | None:
            row = db.execute(
                "select r.items, r.reply from parts p join responses r "
                "on r.id = p.response where p.item = ? order by r.number limit 1",
                (item_id,),
            ).fetchone()
            if row is None:
                return None
            named = [*_parse(row[1]).get("output", []), *_parse(row[0])]
            return next((one for one in named if one.get("id") == item_id), None)

        return self._database.read(work)

    def delete(self, id: str) -> bool:
        """Delete a response; return whether it was stored."""
        if not _is_valid_key(id):
            return False

        def work(db: sqlite3.Connection) -> bool:
            found = db.execute("delete from responses where id = ?", (id,))
            return found.rowcount > 0

        return self._database.remove(work)

    def close(self) -> None:
        """Close the store. The file is not kept open between operations."""

    def _mark_used(self, id: str) -> None:
        """Mark a conversation as used. Failure is logged: it was read all the same."""
        try:
            self._database.change(lambda db: _touch(db, id))
        except StorageError as error:
            log.warning(
                "a response was read but could not be marked as used: %s", error
            )

    def _make_room(self, db: sqlite3.Connection) -> None:
        """Evict least recently used responses; in a conversation, the last first."""
        count, size = db.execute(
            "select count(*), coalesce(sum(bytes), 0) from responses"
        ).fetchone()
        while count > self.max_responses or size > self.max_bytes:
            id, freed = db.execute(
                "select id, bytes from responses order by used, number desc limit 1"
            ).fetchone()
            db.execute("delete from responses where id = ?", (id,))
            count, size = count - 1, size - freed


def _touch(db: sqlite3.Connection, id: str | None) -> float:
    """Mark a response and those before it as used; return the time used."""
    [latest] = db.execute("select coalesce(max(used), 0) from responses").fetchone()
    now = max(time.time(), latest + TICK)
    db.execute(
        CHAIN + "update responses set used = ? where id in (select id from chain)",
        (id, now),
    )
    return now


def _count(db: sqlite3.Connection) -> int:
    [count] = db.execute("select count(*) from responses").fetchone()
    return count


def _ids(items: Iterable[JsonObject]) -> list[str]:
    return [item["id"] for item in items if _is_valid_key(item.get("id"))]


def _is_valid_key(id: object) -> bool:
    """Whether it can be a row key: text with lone surrogates cannot."""
    try:
        return isinstance(id, str) and id.encode() is not None
    except UnicodeEncodeError:
        return False


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DamagedError(f"a row is not JSON: {error}") from error
