"""Write a saved chat as a Markdown document.

Reasoning is folded; calls and results are in fences long enough that nothing inside can
close them.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mlx_gptoss.chat import saved
from mlx_gptoss.chat.history import default_title
from mlx_gptoss.engine.finish_reasons import describe_cause
from mlx_gptoss.harmony.messages import FUNCTION_PREFIX, Message

UNTITLED = "Chat"
MIN_FENCE = 3


def as_markdown(data: Mapping[str, Any]) -> str:
    """Convert the value of `Chat.to_json`; raises PromptError for anything else."""
    chat = saved.from_json(data)
    title = chat.title or default_title(chat.messages) or UNTITLED
    parts = [f"# {title}", f"{chat.updated:%Y-%m-%d %H:%M} UTC, effort {chat.effort}"]
    if chat.system:
        parts += ["**Instructions**", _fenced(chat.system)]
    speaker = ""
    for message in chat.messages:
        author = "You" if message.role == "user" else "gpt-oss"
        if author != speaker:
            parts.append(f"## {author}")
            speaker = author
        parts += _message_blocks(message)
        if message.ended:
            parts.append(f"*({describe_cause(message.ended)})*")
    return "\n\n".join(parts) + "\n"


def _message_blocks(message: Message) -> Iterator[str]:
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
    fence = "`" * max(MIN_FENCE, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
