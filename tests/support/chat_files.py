"""Files of chats, large or broken in a known way, and two versions of SQLite."""

import importlib
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import mlx_gptoss.chat
from mlx_gptoss.chat.sessions.index import SECURE_DELETE_VERSION

OLD = sqlite3.sqlite_version_info < SECURE_DELETE_VERSION
AGES = ("this Python's", "a newer")


def age(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return `chat.sessions` with this Python's SQLite or a newer one."""
    for module in ("checkup", "markdown"):  # so that monkeypatch restores each
        importlib.import_module(f"mlx_gptoss.chat.sessions.{module}")
    if name == AGES[0]:
        return importlib.import_module("mlx_gptoss.chat.sessions")
    newer = pytest.importorskip(
        "pysqlite3", reason="pysqlite3 has no wheel for this machine"
    )
    monkeypatch.setattr(mlx_gptoss.chat, "sessions", None, raising=False)
    monkeypatch.setitem(sys.modules, "sqlite3", newer)
    for loaded in [m for m in sys.modules if m.startswith("mlx_gptoss.chat.sessions")]:
        monkeypatch.delitem(sys.modules, loaded)
    return importlib.import_module("mlx_gptoss.chat.sessions")


def fill(path: Path, chats: int, text: str = "quartz", messages: int = 2) -> list[str]:
    """Insert chats into an existing file; return their ids."""
    ids = [f"{n:08x}-{'0' * 24}" for n in range(chats)]
    said = '{{"role": "user", "content": "{}"}}'
    with opened(path) as db:
        db.execute("BEGIN")
        triggers = dict(
            db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        )
        for name in triggers:
            db.execute(f"DROP TRIGGER {name}")
        db.executemany(
            "INSERT INTO chats VALUES (?, 't', ?, ?, 1, 1, '{}')",
            [(id, DAY, DAY) for id in ids],
        )
        db.executemany(
            "INSERT INTO messages (chat, place, text, data) VALUES (?, ?, ?, ?)",
            [
                (id, n, words, said.format(words))
                for number, id in enumerate(ids)
                for n, words in enumerate([f"{text} {number}"] * messages)
            ],
        )
        for command in triggers.values():
            db.execute(command)
        db.execute("INSERT INTO words (words) VALUES ('rebuild')")
        db.execute("COMMIT")
    return ids


DAY = "2020-01-02T03:04:05+00:00"


@contextmanager
def opened(path: Path, module: Any = sqlite3) -> Iterator[sqlite3.Connection]:
    with closing(module.connect(path, isolation_level=None)) as db:
        yield db


def run(path: Path, *commands: str) -> None:
    with opened(path) as db:
        for command in commands:
            db.execute(command)


def many_levels(path: Path, levels: int = 2002) -> None:
    """Write down that the index has so many levels, all but one of them empty."""
    number = bytes([0x80 | levels >> 7, levels & 0x7F])
    block = b"\0\0\0\0" + number + b"\0\1" + b"\0\0" * levels
    with opened(path) as db:
        db.execute("UPDATE words_data SET block = ? WHERE id = 10", [block])


def noise_in(path: Path, table: str) -> None:
    """Overwrite the root page of a table, as a failing disk does."""
    with opened(path) as db:
        [size] = db.execute("PRAGMA page_size").fetchone()
        [root] = db.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = ?", [table]
        ).fetchone()
    content = bytearray(path.read_bytes())
    content[(root - 1) * size : root * size] = b"\xa5" * size
    path.write_bytes(content)


def another_table(path: Path) -> None:
    """Make the index use the pages of the messages."""
    run(
        path,
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master "
        "WHERE name = 'messages') WHERE name = 'words_data'",
    )


def without(*parts: str) -> Callable[[Path], None]:
    def drop(path: Path) -> None:
        run(path, *(f"DROP {part}" for part in parts))

    return drop


def given_up(path: Path) -> None:
    """Abandon the index, as a kill leaves it before the damaged pages are freed."""
    run(
        path,
        "DROP TRIGGER word_in",
        "DROP TRIGGER word_out",
        "PRAGMA writable_schema = ON",
        "DELETE FROM sqlite_master WHERE tbl_name LIKE 'words%'",
        "PRAGMA writable_schema = RESET",
        "CREATE VIEW words_left AS SELECT 1",
    )


FAULTS: dict[str, Callable[[Path], None]] = {
    "too many levels": many_levels,
    "no words": without("TABLE words"),
    "no words_data": without("TABLE words_data"),
    "no words_idx": without("TABLE words_idx"),
    "no words_docsize": without("TABLE words_docsize"),
    "no words_config": without("TABLE words_config"),
    "no word_in": without("TRIGGER word_in"),
    "no word_out": without("TRIGGER word_out"),
    "no structure": lambda path: run(path, "DELETE FROM words_data WHERE id = 10"),
    "no segments": lambda path: run(path, "DELETE FROM words_data WHERE id > 10"),
    "noise in words_data": lambda path: noise_in(path, "words_data"),
    "noise in words_idx": lambda path: noise_in(path, "words_idx"),
    "noise in words_docsize": lambda path: noise_in(path, "words_docsize"),
    "noise in words_config": lambda path: noise_in(path, "words_config"),
    "another table": another_table,
    "given up": given_up,
}
# Faults that a newer SQLite notices elsewhere.
FOUND_OTHERWISE = (
    "too many levels",
    "no words_idx",
    "noise in words_data",
    "another table",
    "given up",
)
