"""A conversation as data: JSON values with a version, written and strictly read.

    data = to_json(Saved(...))
    from_json(data)        # or PromptError: which key of which part is wrong, and how

Unknown keys are errors, so that nothing is lost by reading and writing again; data of
a later version is refused by that name. Knows nothing of models and of files.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mlx_gptoss.chat.calls import Call, count_trailing_results
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

if TYPE_CHECKING:
    from mlx_gptoss.chat.chat import Chat

FORMAT, VERSION = "mlx-gptoss chat", 2
READABLE_VERSIONS = (1, VERSION)  # before 2 no message said how its turn ended
ADVICE = "give what `Chat.to_json` gave"
OPTIONAL_TEXT = (str, type(None))

CHAT_FIELDS: dict[str, tuple[type, ...]] = {
    "format": (str,),
    "version": (int,),
    "id": (str,),
    "title": OPTIONAL_TEXT,
    "created": (str,),
    "updated": (str,),
    "effort": (str,),
    "system": OPTIONAL_TEXT,
    "identity": (str,),
    "date": (str,),
    "forgotten": (int,),
    "messages": (list,),
    "waiting": (list,),
}
MESSAGE_FIELDS: dict[str, tuple[type, ...]] = {
    "role": (str,),
    "content": (str, dict),
    "channel": OPTIONAL_TEXT,
    "recipient": OPTIONAL_TEXT,
    "content_type": OPTIONAL_TEXT,
    "name": OPTIONAL_TEXT,
    "ended": OPTIONAL_TEXT,
}
CALL_FIELDS: dict[str, tuple[type, ...]] = dict.fromkeys(
    ("id", "name", "arguments", "recipient", "channel", "problem"), (str,)
)
PLACE_FIELD: dict[str, tuple[type, ...]] = {
    "place": (int,)
}  # of a call, where it is odd
SYSTEM, DEVELOPER = "system", "developer"  # contents that are more than text


@dataclass(frozen=True)
class SavedChat:
    """What is kept of a conversation. Times have a zone; `title` None was not given."""

    id: str
    title: str | None
    created: datetime
    updated: datetime
    effort: str
    system: str | None
    identity: str
    date: str
    forgotten: int
    messages: tuple[Message, ...]
    waiting: tuple[Call, ...]

    @classmethod
    def of(cls, chat: "Chat", *, title: str | None) -> "SavedChat":
        """Take what there is now; `title` is the one that was given, if any."""
        return cls(
            id=chat.id,
            title=title,
            created=chat.created,
            updated=chat.updated,
            effort=chat.effort,
            system=chat.system,
            identity=chat.identity,
            date=chat.date,
            forgotten=chat.forgotten,
            messages=tuple(chat.messages),
            waiting=tuple(chat.calls.waiting.values()),
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of Chat that are saved."""
        return {
            "effort": self.effort,
            "system": self.system,
            "identity": self.identity,
            "date": self.date,
        }


def to_json(saved: SavedChat) -> dict[str, Any]:
    """Return JSON values; `json.dumps` takes them as they are."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "id": saved.id,
        "title": saved.title,
        "created": saved.created.isoformat(),
        "updated": saved.updated.isoformat(),
        **saved.settings,
        "forgotten": saved.forgotten,
        "messages": [_message_data(message) for message in saved.messages],
        "waiting": _calls_data(saved.waiting, count_trailing_results(saved.messages)),
    }


def from_json(given: Mapping[str, Any] | str) -> SavedChat:
    """Read what `to_json` gave, as values or as text. Raises PromptError."""
    try:
        return _saved(json.loads(given) if isinstance(given, str) else given)
    except InvalidSavedChat as error:
        raise PromptError(f"this is not a saved chat ({error}): {ADVICE}") from error
    except ValueError as error:
        raise PromptError(f"this is not a saved chat, nor JSON ({error})") from error


class InvalidSavedChat(Exception):
    """What is wrong with the data, and where."""


def _saved(data: Any) -> SavedChat:
    if isinstance(data, Mapping) and data.get("format") == FORMAT:
        version = data.get("version")
        if isinstance(version, int) and version > VERSION:
            raise PromptError(
                "this chat was saved by a newer mlx-gptoss (format "
                f"{version}, this one reads {VERSION}): update it"
            )
    top = _fields(data, "it", CHAT_FIELDS)
    if top["format"] != FORMAT or top["version"] not in READABLE_VERSIONS:
        raise InvalidSavedChat(f"`format` is `{top['format']}` {top['version']}")
    messages = [_message(x, f"messages[{n}]") for n, x in enumerate(top["messages"])]
    if not 0 <= top["forgotten"] <= len(messages):
        raise InvalidSavedChat(f"`forgotten` is {top['forgotten']} of {len(messages)}")
    answered = count_trailing_results(messages)
    calls = [_call(x, n, answered) for n, x in enumerate(top["waiting"])]
    return SavedChat(
        id=top["id"],
        title=top["title"],
        created=_time(top["created"], "created"),
        updated=_time(top["updated"], "updated"),
        effort=_effort(top["effort"]),
        system=top["system"],
        identity=top["identity"],
        date=top["date"],
        forgotten=top["forgotten"],
        messages=tuple(messages),
        waiting=tuple(calls),
    )


def _fields(
    data: Any, where: str, types: Mapping[str, tuple[type, ...]], optional: bool = False
) -> dict[str, Any]:
    """Check that `data` is an object with these keys and types, and no others."""
    if not isinstance(data, Mapping):
        raise InvalidSavedChat(f"{where} is no JSON object")
    unknown = sorted(map(str, data.keys() - types.keys()))
    missing = sorted(types.keys() - data.keys())
    if unknown:
        raise InvalidSavedChat(f"{where} has the unknown key `{unknown[0]}`")
    if missing and not optional:
        raise InvalidSavedChat(f"{where} lacks `{missing[0]}`")
    for key, value in data.items():
        if not isinstance(value, types[key]) or isinstance(value, bool):
            raise InvalidSavedChat(f"`{key}` of {where} is {type(value).__name__}")
    return dict(data)


def _time(text: str, key: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidSavedChat(f"`{key}` is no time: `{text}`") from None
    if time.tzinfo is None:
        raise InvalidSavedChat(f"`{key}` has no time zone: `{text}`")
    return time


def _effort(effort: Any) -> str:
    try:
        SystemContent(effort=effort)
    except PromptError as error:
        raise InvalidSavedChat(str(error)) from None
    return effort


def _calls_data(calls: Sequence[Call], answered: int) -> list[dict[str, Any]]:
    """Leave out the place of a call that stands behind all that are answered."""
    out = []
    for at, call in enumerate(calls):
        data = asdict(call)
        if call.place == answered + at:
            del data["place"]
        out.append(data)
    return out


def _call(data: Any, at: int, answered: int) -> Call:
    where = f"waiting[{at}]"
    place = answered + at
    if isinstance(data, Mapping) and "place" in data:
        place = _fields(data, where, CALL_FIELDS | PLACE_FIELD)["place"]
        data = {key: value for key, value in data.items() if key != "place"}
    if not 0 <= place - at <= answered:
        raise InvalidSavedChat(f"`place` of {where} is {place}")
    return Call(**_fields(data, where, CALL_FIELDS), place=place)


def _message_data(message: Message) -> dict[str, Any]:
    """Leave out what a message does not have."""
    data = {key: value for key, value in vars(message).items() if value is not None}
    if isinstance(message.content, SystemContent):
        data["content"] = {SYSTEM: asdict(message.content)}
    elif isinstance(message.content, DeveloperContent):
        data["content"] = {DEVELOPER: asdict(message.content)}
    return data


def _message(data: Any, where: str) -> Message:
    found = _fields(data, where, MESSAGE_FIELDS, optional=True)
    for key in ("role", "content"):
        if key not in found:
            raise InvalidSavedChat(f"{where} lacks `{key}`")
    try:
        found["content"] = _content(found["content"])
        return Message(**found)
    except (PromptError, TypeError, KeyError, AttributeError) as error:
        raise InvalidSavedChat(f"{where}: {error}") from None


def _content(content: Any) -> Content:
    if isinstance(content, str):
        return content
    [(kind, found)] = content.items() if len(content) == 1 else [("", {})]
    data: dict[str, Any] = {
        k: tuple(x) if isinstance(x, list) else x for k, x in found.items()
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
