"""A chat as a Markdown document, to read and to keep.

What the model thought is folded; calls and results stand in fences that nothing inside
them can close.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mlx_gptoss.chat import saved
from mlx_gptoss.chat.history import default_title
from mlx_gptoss.engine.finish_reasons import describe_cause
from mlx_gptoss.harmony.messages import FUNCTION_PREFIX, Message

UNTITLED = "Chat"
LEAST_FENCE = 3


def as_markdown(data: Mapping[str, Any]) -> str:
    """Write what `Chat.to_json` gave. Raises PromptError for anything else."""
    chat = saved.from_json(data)
    title = chat.title or default_title(chat.messages) or UNTITLED
    parts = [f"# {title}", f"{chat.updated:%Y-%m-%d %H:%M} UTC, effort {chat.effort}"]
    if chat.system:
        parts += ["**Instructions**", _fenced(chat.system)]
    speaker = ""
    for message in chat.messages:
        said_by = "You" if message.role == "user" else "gpt-oss"
        if said_by != speaker:
            parts.append(f"## {said_by}")
            speaker = said_by
        parts += _written(message)
        if message.ended:
            parts.append(f"*({describe_cause(message.ended)})*")
    return "\n\n".join(parts) + "\n"


def _written(message: Message) -> Iterator[str]:
    text = message.text.strip("\n")
    if message.role == "tool":
        yield f"Result of `{_tool(message.name)}`:"
        yield _fenced(text)
    elif message.is_call:
        yield f"Calls `{_tool(message.recipient)}`:"
        yield _fenced(text, "json" if text.startswith("{") else "")
    elif message.channel == "analysis":
        yield f"<details><summary>Reasoning</summary>\n\n{_fenced(text)}\n\n</details>"
    elif message.role in ("system", "developer"):
        yield f"({message.role} message)"
    else:
        yield text


def _tool(name: str | None) -> str:
    return (name or "").removeprefix(FUNCTION_PREFIX)


def _fenced(text: str, language: str = "") -> str:
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(LEAST_FENCE, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
