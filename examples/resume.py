"""Save a conversation to a file, and resume it as another program would."""

import tempfile
from pathlib import Path

from mlx_gptoss import Answer, Chat, SamplingParams, Sessions, load

with load("demo") as runtime, tempfile.TemporaryDirectory() as folder:
    sessions = Sessions.open(Path(folder) / "chats.sqlite3")  # default: the user's own
    greedy = SamplingParams(temperature=0)
    chat = Chat(runtime, date="2026-11-22", params=greedy, on_change=sessions.save)
    list(chat.send("My name is Maria."))

    [kept] = sessions.list()
    again = Chat.from_json(runtime, sessions.load(kept.id), params=greedy)
    for event in again.send("What is my name?"):
        if isinstance(event, Answer):
            print(event.text, end="", flush=True)
print()
