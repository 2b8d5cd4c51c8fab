"""Read a conversation from a file: OpenAI's chat messages, or a saved chat.

Either may have `tools` (OpenAI's entries); a list is the messages only. A saved chat is
read as `Chat.from_json` reads it.
"""

import json
from typing import Any

from mlx_gptoss.chat import saved
from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony import messages as m
from mlx_gptoss.harmony.built_in_tools import BROWSER, PYTHON
from mlx_gptoss.harmony.openai_chat import from_chat_messages, read_tool

SAVED_KEYS = {"effort", "system", "identity", "date", "messages"}
BUILT_IN = {"browser": BROWSER, "python": PYTHON}
ADVICE = (
    "give a JSON list of messages, an object with `messages` (and `tools`), or a saved "
    "chat"
)


def read_conversation(
    text: str,
    *,
    effort: m.Effort | None = None,
    conversation_date: str | None = None,
) -> list[m.Message]:
    """Read a conversation; `effort` and `conversation_date` override the file's own.

    Raises PromptError for anything else.
    """
    try:
        given: Any = json.loads(text)
    except ValueError as error:
        raise PromptError(f"this is not JSON ({error}): {ADVICE}") from error
    if isinstance(given, list):
        given = {"messages": given}
    if not isinstance(given, dict):
        raise PromptError(f"there are no messages: {ADVICE}")
    content: dict[str, Any] = given
    if _is_saved_chat(content):
        return _from_saved_chat(content, effort, conversation_date)
    if not isinstance(content.get("messages"), list):
        raise PromptError(f"there are no messages: {ADVICE}")
    return from_chat_messages(
        content["messages"],
        tools=_tool_entries(content),
        response_format=content.get("response_format"),
        effort=effort or content.get("reasoning_effort") or "medium",
        conversation_date=conversation_date or content.get("date"),
        to_answer=False,
    )


def _is_saved_chat(content: dict[str, Any]) -> bool:
    return content.get("format") == saved.FORMAT or content.keys() >= SAVED_KEYS


def _tool_entries(content: dict[str, Any]) -> list[Any]:
    tools = content.get("tools") or []
    if not isinstance(tools, list):
        raise PromptError("`tools` is not a list: give OpenAI's `tools` entries in one")
    return tools


def _from_saved_chat(
    content: dict[str, Any], effort: m.Effort | None, date: str | None
) -> list[m.Message]:
    entries = _tool_entries(content)
    tools = [read_tool(one, f"tools[{n}]") for n, one in enumerate(entries)]
    chat = saved.from_json({key: content[key] for key in content if key != "tools"})
    system = m.SystemContent(
        identity=chat.identity,
        conversation_date=date or chat.date or None,
        effort=effort or chat.effort,  # pyright: ignore[reportArgumentType] - checked
        namespaces=tuple(BUILT_IN[name] for name in _built_in_called(chat.messages)),
    )
    out = [m.Message("system", system)]
    if chat.system or tools:
        out.append(m.developer(chat.system, tools=tools))
    return [*out, *chat.messages]


def _built_in_called(messages: tuple[m.Message, ...]) -> list[str]:
    """Return the built-in tools that were called: they must have been offered."""
    called = {str(message.recipient).partition(".")[0] for message in messages}
    return sorted(called & BUILT_IN.keys())
