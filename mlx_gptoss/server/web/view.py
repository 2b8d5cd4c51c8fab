"""A saved conversation as the page shows it: turns of questions and parts.

    turns = show_turns(chat.messages, chat.waiting)

Knows messages; nothing of models or HTTP.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from mlx_gptoss.chat.calls import Call
from mlx_gptoss.engine.finish_reasons import describe_cause
from mlx_gptoss.harmony.attached_files import split_files
from mlx_gptoss.harmony.messages import FUNCTION_PREFIX, Message
from mlx_gptoss.server.web.turn_items import OPEN, result_state

CHANNELS = {"analysis": "reasoning", "commentary": "preamble", "final": "answer"}


def show_question(text: str) -> dict[str, Any]:
    """Return a turn with a question and no answer yet.

    `source` is the whole question, `question` that without the files attached to it.
    """
    question, files = split_files(text)
    return {
        "source": text,
        "question": question,
        "files": [{"name": name, "text": content} for name, content in files],
        "items": [],
    }


def show_turns(
    messages: Sequence[Message], waiting: Iterable[Call] = ()
) -> list[dict[str, Any]]:
    """Return the turns of a history; `waiting` are calls without a result."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        if message.role == "user":
            turns.append(show_question(message.text))
        elif not turns or message.role in ("system", "developer"):
            continue
        elif message.role == "tool":
            _add_result(turns[-1]["items"], message.text)
        else:
            turns[-1]["items"].append(_part(message))
        if message.ended:
            turns[-1]["cut"] = describe_cause(message.ended)
    for call in waiting:
        for turn in turns[-1:]:
            _name_open_call(turn["items"], call)
    return turns


def _part(message: Message) -> dict[str, Any]:
    if message.is_call:
        name = (message.recipient or "").removeprefix(FUNCTION_PREFIX)
        return {
            "kind": "call",
            "name": name,
            "arguments": message.text,
            "state": OPEN,
        }
    return {"kind": CHANNELS.get(message.channel or "", "answer"), "text": message.text}


def _add_result(items: list[dict[str, Any]], text: str) -> None:
    """Give the first call without a result this one: Harmony pairs by position."""
    for item in items:
        if item["kind"] == "call" and "result" not in item:
            item |= {"result": text, "state": result_state(text)}
            return


def _name_open_call(items: list[dict[str, Any]], call: Call) -> None:
    for item in items:
        if item.get("state") == OPEN and "id" not in item and item["name"] == call.name:
            item["id"] = call.id
            return
