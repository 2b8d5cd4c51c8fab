"""Chats with a given history, saved in a file of chats."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from mlx_gptoss.chat import Chat
from mlx_gptoss.chat.sessions import Sessions
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.harmony.messages import (
    Message,
    answer,
    user,
)

GREEDY = SamplingParams(temperature=0)
REPLY = "<|channel|>final<|message|>Yes.<|return|>"


def start(runtime: Runtime, *messages: Message, **options: Any) -> Chat:
    chat = Chat(runtime, **{"params": GREEDY, "date": "2026-01-02"} | options)
    chat.messages = list(messages)
    return chat


def saved(sessions: Sessions, runtime: Runtime, *texts: str) -> Chat:
    """Save a chat whose user said `texts`, each answered by OK."""
    chat = start(runtime, *(m for text in texts for m in (user(text), answer("OK"))))
    sessions.save(chat)
    return chat


def database(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()
    return path
