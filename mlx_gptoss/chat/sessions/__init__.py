"""Saved chats on disk: list, search, resume, and delete them.

    sessions = Sessions.open()
    chat = Chat(runtime, on_change=sessions.save)
    chat = Chat.from_json(runtime, sessions.load(id), on_change=sessions.save)

store.py      Sessions: save, list, search, load, delete
rows.py       the rows of chats and messages
search.py     find chats by text, with the index or without
database.py   one SQLite file: its schema, transactions, permissions and errors
index.py      its full-text index: create, rebuild, delete from
checkup.py    examine such a file, for `doctor`
markdown.py   a chat as a document

answer_journal.py  what has arrived of an answer, on disk until it is saved
recovery.py        what killed programs left of it is added to the chats
stored_state.py    a saved chat that is written again without a model

Only markdown.py and stored_state.py need MLX: the rest works where MLX does not start.
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
