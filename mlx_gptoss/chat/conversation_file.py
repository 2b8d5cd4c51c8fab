"""A conversation from a file: OpenAI's chat messages, or a chat this program saved.

Either may have `tools` (OpenAI's entries); a list is the messages alone.
"""

import json
from typing import Any

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
    """Read a conversation; `effort` and `conversation_date` go before the file's own.

    Raises PromptError for what cannot be read.
    """
    try:
        given: Any = json.loads(text)
    except ValueError as error:
        raise PromptError(f"this is no JSON ({error}): {ADVICE}") from error
    if isinstance(given, list):
        given = {"messages": given}
    if not isinstance(given, dict) or not isinstance(given.get("messages"), list):
        raise PromptError(f"there are no messages: {ADVICE}")
    tools = given.get("tools") or []
    if not isinstance(tools, list):
        raise PromptError("`tools` is no list: give OpenAI's `tools` entries in one")
    state: dict[str, Any] = given
    if state.keys() >= SAVED_KEYS:
        return _saved(state, tools, effort, conversation_date)
    return from_chat_messages(
        state["messages"],
        tools=tools,
        response_format=state.get("response_format"),
        effort=effort or state.get("reasoning_effort") or "medium",
        conversation_date=conversation_date or state.get("date"),
        to_answer=False,
    )


def _saved(
    given: dict[str, Any], entries: list[Any], effort: Any, date: str | None
) -> list[m.Message]:
    tools = [read_tool(one, f"tools[{at}]") for at, one in enumerate(entries)]
    try:
        kept = [m.Message(**message) for message in given["messages"]]
    except TypeError as error:
        raise PromptError(f"this is not a saved chat ({error}): {ADVICE}") from error
    out = [
        m.system(
            effort or given["effort"],
            conversation_date=date or given["date"] or None,
            identity=given["identity"],
            namespaces=[BUILT_IN[name] for name in _built_in(kept)],
        )
    ]
    if given["system"] or tools:
        out.append(m.developer(given["system"], tools=tools))
    return [*out, *kept]


def _built_in(messages: list[m.Message]) -> list[str]:
    """The built-in tools that were called, so that they must have been on offer."""
    called = {str(message.recipient).partition(".")[0] for message in messages}
    return sorted(called & BUILT_IN.keys())
