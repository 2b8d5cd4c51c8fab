"""Chats on disk: saved after every change, listed, searched, resumed, deleted.

    sessions = Sessions.open()
    chat = Chat(runtime, on_change=sessions.save)
    chat = Chat.from_json(runtime, sessions.load(id), on_change=sessions.save)

store.py      what can be done with chats that are kept
searching.py  how they are found, with the index or without
database.py   one SQLite file: its schema, transactions, permissions and errors
index.py      its full-text index: kept small, forgotten from, built anew
checkup.py    what such a file is like, for `doctor`
markdown.py   a chat as a document

Only a document needs MLX: the rest can be used where it does not start.
"""

from typing import TYPE_CHECKING, Any

from mlx_gptoss.chat.sessions.search import ChatSummary, SearchHit
from mlx_gptoss.chat.sessions.store import Sessions

if TYPE_CHECKING:
    from mlx_gptoss.chat.sessions.markdown import as_markdown

__all__ = ["ChatSummary", "SearchHit", "Sessions", "as_markdown"]


def __getattr__(name: str) -> Any:
    if name == "as_markdown":
        from mlx_gptoss.chat.sessions.markdown import as_markdown  # noqa: PLC0415 - MLX

        return as_markdown
    raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
