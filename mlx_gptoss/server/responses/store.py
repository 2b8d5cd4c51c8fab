"""Responses on disk: one SQLite file, private to its owner, bounded in count and size.

    store = ResponseStore.open(folder / "responses.sqlite3")
    store.save(Stored(reply, items, previous))
    store.history(id)          # the items of a conversation, oldest first

What was used longest ago goes first. A response counts as used when a later one of its
conversation is, so that the beginning of a conversation does not go before its end.
What is deleted is overwritten. Knows JSON values; nothing of what they mean. May be
called from any thread.
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
from mlx_gptoss.errors import GptOssError, StorageError
from mlx_gptoss.server.responses.database import DamagedError, Database

log = logging.getLogger(__name__)

FILE = "responses.sqlite3"
MAX_RESPONSES = 10_000
MAX_BYTES = 512 * 2**20
TICK = 1e-6  # seconds: what is used later has a later time, though a clock goes back

# What makes a file of each version one of the next; the first makes it of nothing.
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
    # An item may be part of several responses; it is that of the first.
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
}
Json = dict[str, Any]


@dataclass(frozen=True)
class StoredResponse:
    """A response as it was given, and the items it was asked with.

    It `continues` the answer that these, or those before them, end with.
    """

    reply: Json
    items: list[Json]
    previous: str | None = None
    continues: bool = False


def open_store(settings: ServerSettings) -> "ResponseStore | None":
    """Open the store of a server; None where it keeps nothing."""
    if settings.store is None:
        return None
    return ResponseStore.open(settings.store / FILE)


class ResponseStore:
    """See the module. Everything raises StorageError where the disk does not do it."""

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
        """Open the store, making what is missing; a damaged file is set aside.

        Raises GptOssError for a place that cannot be used. One that is full, or can
        only be read, is a warning: there may be room later.
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
            log.warning("responses are not kept now: %s", error)
        else:
            if not os.access(path, os.W_OK):
                log.warning("responses are not kept now: `%s` can only be read", path)
        return cls(database, max_responses=max_responses, max_bytes=max_bytes)

    def save(self, one: StoredResponse) -> bool:
        """Keep a response and let go of what no longer has room.

        Items without an id are given one. Says whether it was kept: one that has no
        room alone is not.
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
        """Return a response, None if it is not here."""
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

    def history(self, id: str) -> list[Json] | None:
        """Return all items up to and with a response, None if any of it is gone."""
        if not _is_valid_key(id):
            return None

        def work(db: sqlite3.Connection) -> list[Json] | None:
            rows = db.execute(
                CHAIN + "select r.previous, r.items, r.reply from chain "
                "join responses r on r.id = chain.id order by depth desc",
                (id,),
            ).fetchall()
            if not rows or rows[0][0] is not None:
                return None
            out: list[Json] = []
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

    def find(self, item_id: str) -> Json | None:
        """Return an item by its id, None if it is not here.

        Where clients gave several items one id it is that of the first response.
        """
        if not _is_valid_key(item_id):
            return None

        def work(db: sqlite3.Connection) -> Json | None:
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
        """Forget a response; say whether it was here."""
        if not _is_valid_key(id):
            return False

        def work(db: sqlite3.Connection) -> bool:
            found = db.execute("delete from responses where id = ?", (id,))
            return found.rowcount > 0

        return self._database.remove(work)

    def close(self) -> None:
        """Let go of the file, which nothing holds open between operations."""

    def _mark_used(self, id: str) -> None:
        """Mark a conversation as used; it was read, whether or not that can be said."""
        try:
            self._database.change(lambda db: _touch(db, id))
        except StorageError as error:
            log.warning("a response was read and could not be marked: %s", error)

    def _make_room(self, db: sqlite3.Connection) -> None:
        """Delete what was used longest ago; of a conversation, its end first."""
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
    """Mark a response and those before it as used last; return the time of that."""
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


def _ids(items: Iterable[Json]) -> list[str]:
    return [item["id"] for item in items if _is_valid_key(item.get("id"))]


def _is_valid_key(id: object) -> bool:
    """Whether it can be the key of a row: half a pair of surrogates cannot."""
    try:
        return isinstance(id, str) and id.encode() is not None
    except UnicodeEncodeError:
        return False


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DamagedError(f"a row holds no JSON: {error}") from error
