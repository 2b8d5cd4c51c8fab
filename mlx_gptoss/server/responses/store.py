"""Responses on disk: one SQLite file, private to its owner, bounded in count and size.

    store = ResponseStore.open(folder / "responses.sqlite3")
    store.save(Stored(reply, items, previous))
    store.history(id)          # the items of a conversation, oldest first

What was used longest ago goes first. A response counts as used when a later one of its
conversation is, so that the beginning of a conversation does not go before its end.
What is deleted is overwritten. Knows JSON values; nothing of what they mean. May be
called from any thread.
"""

import contextlib
import json
import logging
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_gptoss.errors import GptOssError
from mlx_gptoss.server.settings import Settings

log = logging.getLogger(__name__)

PRIVATE, PRIVATE_FOLDER = 0o600, 0o700
FILE = "responses.sqlite3"
VERSION = 1
MOST_RESPONSES = 10_000
MOST_BYTES = 512 * 2**20
BUSY_SECONDS = 10.0

SCHEMA = """
create table if not exists responses (
    id text primary key, previous text, used real not null, number integer not null,
    bytes integer not null, reply text not null, items text not null
);
create index if not exists by_use on responses (used);
create table if not exists items (
    id text primary key, response text not null
        references responses (id) on delete cascade
);
create index if not exists by_response on items (response);
"""
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
CONTINUES = "continues"  # marks what a response said behind an answer that had begun
Json = dict[str, Any]


@dataclass(frozen=True)
class Stored:
    """A response as it was given, and the items it was asked with.

    It `continues` the answer that these, or those before them, end with.
    """

    reply: Json
    items: list[Json]
    previous: str | None = None
    continues: bool = False


def open_store(settings: Settings) -> "ResponseStore | None":
    """Open the store of a server; None where it keeps nothing."""
    if settings.store is None:
        return None
    return ResponseStore.open(settings.store / FILE)


class ResponseStore:
    """See the module."""

    def __init__(
        self, database: sqlite3.Connection, *, most: int, most_bytes: int
    ) -> None:
        self._database = database
        self._lock = threading.Lock()
        self.most = most
        self.most_bytes = most_bytes

    @classmethod
    def open(
        cls, path: Path, *, most: int = MOST_RESPONSES, most_bytes: int = MOST_BYTES
    ) -> "ResponseStore":
        """Open the store, making what is missing; a damaged file is set aside.

        Raises GptOssError for a place that cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE))
            path.chmod(PRIVATE)
            database = cls._connect(path)
        except (OSError, sqlite3.OperationalError) as error:
            raise GptOssError(
                f"the store of responses `{path}` cannot be used ({error}): give "
                "another folder, or keep nothing with --no-store"
            ) from error
        except sqlite3.DatabaseError as error:
            aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
            log.warning("`%s` is damaged (%s): kept as `%s`", path, error, aside.name)
            path.rename(aside)
            return cls.open(path, most=most, most_bytes=most_bytes)
        return cls(database, most=most, most_bytes=most_bytes)

    @staticmethod
    def _connect(path: Path) -> sqlite3.Connection:
        database = sqlite3.connect(
            path, timeout=BUSY_SECONDS, check_same_thread=False, isolation_level=None
        )
        try:
            database.execute("pragma foreign_keys = on")
            database.execute("pragma secure_delete = on")
            [version] = database.execute("pragma user_version").fetchone()
            if version > VERSION:
                raise sqlite3.OperationalError(
                    "a newer version of this program made it"
                )
            database.executescript(SCHEMA)
            database.execute(f"pragma user_version = {VERSION}")
            database.execute("select count(*) from responses").fetchone()
        except BaseException:
            database.close()
            raise
        return database

    def save(self, one: Stored) -> None:
        """Keep a response and let go of what no longer has room.

        Items without an id are given one. One that has no room alone is not kept.
        """
        for item in one.items:
            prefix = PREFIXES.get(str(item.get("type")), "item")
            item.setdefault("id", f"{prefix}_{secrets.token_hex(12)}")
        mark = {CONTINUES: True} if one.continues else {}
        reply, items = json.dumps(one.reply | mark), json.dumps(one.items)
        size = len(reply) + len(items)
        if size > self.most_bytes:
            log.warning("a response of %d bytes is too large to be stored", size)
            return
        id, now = one.reply["id"], time.time()
        with self._changing() as database:
            self._touch(one.previous, now)
            [number] = database.execute(
                "select coalesce(max(number), 0) + 1 from responses"
            ).fetchone()
            database.execute(
                "insert or replace into responses values (?, ?, ?, ?, ?, ?, ?)",
                (id, one.previous, now, number, size, reply, items),
            )
            named = [*one.items, *one.reply.get("output", [])]
            database.executemany(
                "insert or replace into items values (?, ?)",
                [(item["id"], id) for item in named if isinstance(item.get("id"), str)],
            )
            self._make_room()

    def load(self, id: str) -> Stored | None:
        """Return a response, None if it is not here."""
        with self._lock:
            row = self._database.execute(
                "select reply, items, previous from responses where id = ?", (id,)
            ).fetchone()
        if row is None:
            return None
        reply = json.loads(row[0])
        continues = reply.pop(CONTINUES, False)
        return Stored(reply, json.loads(row[1]), row[2], continues)

    def history(self, id: str) -> list[Json] | None:
        """Return all items up to and with a response, None if any of it is gone."""
        with self._changing() as database:
            rows = database.execute(
                CHAIN + "select r.previous, r.items, r.reply from chain "
                "join responses r on r.id = chain.id order by depth desc",
                (id,),
            ).fetchall()
            if not rows or rows[0][0] is not None:
                return None
            self._touch(id, time.time())
        out: list[Json] = []
        for _, items, reply in rows:
            found = json.loads(reply)
            output = found.get("output", [])
            if output and found.get(CONTINUES):
                output[0][CONTINUES] = True
            out += [*json.loads(items), *output]
        return out

    def find(self, item_id: str) -> Json | None:
        """Return an item by its id, None if it is not here."""
        with self._lock:
            row = self._database.execute(
                "select r.items, r.reply from items i join responses r "
                "on r.id = i.response where i.id = ?",
                (item_id,),
            ).fetchone()
        if row is None:
            return None
        named = [*json.loads(row[0]), *json.loads(row[1]).get("output", [])]
        return next((one for one in named if one.get("id") == item_id), None)

    def delete(self, id: str) -> bool:
        """Forget a response; say whether it was here."""
        with self._changing() as database:
            found = database.execute("delete from responses where id = ?", (id,))
            return found.rowcount > 0

    def close(self) -> None:
        with self._lock:
            self._database.close()

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """All of what is done in it, or nothing."""
        with self._lock:
            self._database.execute("begin immediate")
            try:
                yield self._database
            except BaseException:
                self._database.execute("rollback")
                raise
            self._database.execute("commit")

    def _touch(self, id: str | None, now: float) -> None:
        """Mark a response and those before it as used."""
        self._database.execute(
            CHAIN + "update responses set used = ? where id in (select id from chain)",
            (id, now),
        )

    def _make_room(self) -> None:
        """Delete what was used longest ago; of a conversation, its end first."""
        count, size = self._database.execute(
            "select count(*), coalesce(sum(bytes), 0) from responses"
        ).fetchone()
        while count > self.most or size > self.most_bytes:
            id, freed = self._database.execute(
                "select id, bytes from responses order by used, number desc limit 1"
            ).fetchone()
            self._database.execute("delete from responses where id = ?", (id,))
            count, size = count - 1, size - freed
