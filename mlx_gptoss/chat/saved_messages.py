"""Messages and waiting calls of a saved chat: written as JSON values, strictly read.

What a message does not have is left out. Raises InvalidSavedChat for anything else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mlx_gptoss.chat.calls import Call
from mlx_gptoss.chat.saved_fields import (
    OPTIONAL_TEXT,
    Fields,
    InvalidSavedChat,
    checked_fields,
)
from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.messages import (
    Content,
    DeveloperContent,
    Message,
    ResponseFormat,
    SystemContent,
    ToolDescription,
    ToolNamespace,
)

MESSAGE_FIELDS: Fields = {
    "role": (str,),
    "content": (str, dict),
    "channel": OPTIONAL_TEXT,
    "recipient": OPTIONAL_TEXT,
    "content_type": OPTIONAL_TEXT,
    "name": OPTIONAL_TEXT,
    "ended": OPTIONAL_TEXT,
}
CALL_FIELDS: Fields = dict.fromkeys(
    ("id", "name", "arguments", "recipient", "channel", "problem"), (str,)
)
PLACE_FIELD: Fields = {"place": (int,)}  # only of a call that is out of order
SYSTEM, DEVELOPER = "system", "developer"  # contents that are more than text


def message_to_json(message: Message) -> dict[str, Any]:
    """Return a message as JSON values, without the fields that are None."""
    data = {key: value for key, value in vars(message).items() if value is not None}
    if isinstance(message.content, SystemContent):
        data["content"] = {SYSTEM: asdict(message.content)}
    elif isinstance(message.content, DeveloperContent):
        data["content"] = {DEVELOPER: asdict(message.content)}
    return data


def message_from_json(data: Any, where: str) -> Message:
    """Read what `message_to_json` wrote; `where` names it in errors."""
    fields = checked_fields(data, where, MESSAGE_FIELDS, optional=True)
    for key in ("role", "content"):
        if key not in fields:
            raise InvalidSavedChat(f"{where} lacks `{key}`")
    try:
        fields["content"] = _content(fields["content"])
        return Message(**fields)
    except (PromptError, TypeError, KeyError, AttributeError) as error:
        raise InvalidSavedChat(f"{where}: {error}") from None


def calls_to_json(calls: Sequence[Call], answered: int) -> list[dict[str, Any]]:
    """Return the waiting calls; `answered` counts the results at the end.

    The place of a call that follows all answered ones is left out.
    """
    out = []
    for index, call in enumerate(calls):
        data = asdict(call)
        if call.place == answered + index:
            del data["place"]
        out.append(data)
    return out


def call_from_json(data: Any, index: int, answered: int) -> Call:
    """Read the waiting call number `index`, as `calls_to_json` wrote it."""
    where = f"waiting[{index}]"
    place = answered + index
    if isinstance(data, Mapping) and "place" in data:
        place = checked_fields(data, where, {**CALL_FIELDS, **PLACE_FIELD})["place"]
        data = {key: value for key, value in data.items() if key != "place"}
    if not 0 <= place - index <= answered:
        raise InvalidSavedChat(f"`place` of {where} is {place}")
    return Call(**checked_fields(data, where, CALL_FIELDS), place=place)


def _content(content: Any) -> Content:
    if isinstance(content, str):
        return content
    [(kind, given)] = content.items() if len(content) == 1 else [("", {})]
    data: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in given.items()
    }
    if kind == SYSTEM:
        data["namespaces"] = tuple(map(_namespace, data["namespaces"]))
        return SystemContent(**data)
    if kind == DEVELOPER:
        data["namespaces"] = tuple(map(_namespace, data["namespaces"]))
        data["tools"] = _tools(data["tools"])
        formats = data["response_formats"]
        data["response_formats"] = tuple(ResponseFormat(**one) for one in formats)
        return DeveloperContent(**data)
    raise TypeError("`content` is neither text nor that of a system or developer")


def _namespace(data: Mapping[str, Any]) -> ToolNamespace:
    return ToolNamespace(**{**data, "tools": _tools(data["tools"])})


def _tools(data: Sequence[Mapping[str, Any]]) -> tuple[ToolDescription, ...]:
    return tuple(ToolDescription(**one) for one in data)
