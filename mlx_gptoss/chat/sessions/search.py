"""Find chats by text, and summarize them for lists. Reads rows; knows no files."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SHORT_ID_CHARACTERS = 8  # enough to tell chats apart
SNIPPET_CHARACTERS = 80  # around a match
MIN_INDEXED_CHARACTERS = 3  # the index holds trigrams


@dataclass(frozen=True)
class ChatSummary:
    """A chat in a list. Times are ISO 8601 with a zone."""

    id: str
    title: str
    created: str
    updated: str
    turns: int

    @property
    def short_id(self) -> str:
        return self.id[:SHORT_ID_CHARACTERS]


@dataclass(frozen=True)
class SearchHit:
    """A chat that matches a search, and the text around the match."""

    chat: ChatSummary
    snippet: str


def can_be_indexed(words: Sequence[str]) -> bool:
    """Return whether the index can find these words."""
    return all(
        len(word) >= MIN_INDEXED_CHARACTERS and "\0" not in word for word in words
    )


def search(
    db: sqlite3.Connection, words: Sequence[str], *, indexed: bool
) -> tuple[SearchHit, ...]:
    """Return the chats with a message or a title that contains all words.

    `words` are lower case. With `indexed`, messages are found in the full-text index;
    otherwise every message is read.
    """
    where, wanted = "holds(text)", []
    if indexed:
        quoted = ['"' + word.replace('"', '""') + '"' for word in words]
        where = "number IN (SELECT rowid FROM words WHERE words MATCH ?)"
        wanted = [" AND ".join(quoted)]
    db.create_function("holds", 1, lambda x: _match_offset(x, words) is not None)
    rows = db.execute(
        "SELECT id, title, created, updated, turns, "
        f"(SELECT text FROM messages WHERE chat = id AND {where} "
        "ORDER BY place LIMIT 1) AS found FROM chats "
        "WHERE found IS NOT NULL OR holds(title) "
        "ORDER BY updated DESC, chats.rowid DESC",
        wanted,
    ).fetchall()
    return tuple(_search_hit(dict(row), words) for row in rows)


def _match_offset(text: str, words: Sequence[str]) -> int | None:
    """Return the offset of the first word; None unless the text contains all."""
    places = [text.lower().find(word) for word in words]
    return None if -1 in places else places[0]


def _search_hit(row: dict[str, Any], words: Sequence[str]) -> SearchHit:
    text = row.pop("found") or row["title"]
    chat = ChatSummary(**row)
    start = max((_match_offset(text, words) or 0) - SNIPPET_CHARACTERS // 2, 0)
    cut = " ".join(text[start : start + SNIPPET_CHARACTERS].split())
    before = "…" if start else ""
    after = "…" if start + SNIPPET_CHARACTERS < len(text) else ""
    return SearchHit(chat, before + cut + after)
