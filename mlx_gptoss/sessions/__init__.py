"""Chats on disk: saved after every change, listed, searched, resumed, deleted.

    sessions = Sessions.open()
    chat = Chat(runtime, on_change=sessions.save)
    chat = Chat.from_json(runtime, sessions.load(id), on_change=sessions.save)

store.py      what can be done with chats that are kept
database.py   one SQLite file: its schema, transactions, permissions and errors
markdown.py   a chat as a document
"""

from mlx_gptoss.sessions.markdown import as_markdown
from mlx_gptoss.sessions.store import Found, Sessions, Summary

__all__ = ["Found", "Sessions", "Summary", "as_markdown"]
