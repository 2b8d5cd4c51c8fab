"""A chat as data: versioned JSON values, written and strictly read.

    data = to_json(SavedChat(...))
    from_json(data)        # or PromptError: which key of which part is wrong, and how

Unknown keys are errors, so that reading and writing again loses nothing; a later
version is refused by name. Knows nothing of models or files.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mlx_gptoss.chat.calls import Call, count_trailing_results
from mlx_gptoss.chat.saved_fields import (
    OPTIONAL_TEXT,
    Fields,
    InvalidSavedChat,
    checked_fields,
)
from mlx_gptoss.chat.saved_messages import (
    call_from_json,
    calls_to_json,
    message_from_json,
    message_to_json,
)
from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.messages import Message, SystemContent

FORMAT, VERSION = "mlx-gptoss chat", 4
PLAIN, WITH_ADAPTER = 2, 3  # the versions of chats without notes
READABLE_VERSIONS = (1, PLAIN, WITH_ADAPTER, VERSION)  # 1 does not say how turns ended
ADVICE = "give the value of `Chat.to_json`"

CHAT_FIELDS: Fields = {
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
LATER_FIELDS: dict[int, Fields] = {  # of a version, beside CHAT_FIELDS
    WITH_ADAPTER: {"adapter": (str,)},
    VERSION: {"adapter": OPTIONAL_TEXT, "notes": (dict,)},
}


@dataclass(frozen=True)
class SavedChat:
    """The content of a saved chat. Times have a zone; `title` None was not set.

    `adapter` is the name of the adapter that answers, None if there is none; `notes`
    are JSON values that a program keeps with the chat.
    """

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
    adapter: str | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of Chat that are saved."""
        return {
            "effort": self.effort,
            "system": self.system,
            "identity": self.identity,
            "date": self.date,
        }


def to_json(chat: SavedChat) -> dict[str, Any]:
    """Return JSON values, ready for `json.dumps`."""
    version, later = PLAIN, dict[str, Any]()
    if chat.notes:
        version, later = VERSION, {"adapter": chat.adapter, "notes": dict(chat.notes)}
    elif chat.adapter is not None:
        version, later = WITH_ADAPTER, {"adapter": chat.adapter}
    return {
        "format": FORMAT,
        "version": version,
        "id": chat.id,
        "title": chat.title,
        "created": chat.created.isoformat(),
        "updated": chat.updated.isoformat(),
        **chat.settings,
        **later,
        "forgotten": chat.forgotten,
        "messages": [message_to_json(message) for message in chat.messages],
        "waiting": calls_to_json(chat.waiting, count_trailing_results(chat.messages)),
    }


def from_json(given: Mapping[str, Any] | str) -> SavedChat:
    """Read the value of `to_json`, or its text; raises PromptError for all else."""
    try:
        return _read(json.loads(given) if isinstance(given, str) else given)
    except InvalidSavedChat as error:
        raise PromptError(f"this is not a saved chat ({error}): {ADVICE}") from error
    except ValueError as error:
        raise PromptError(f"this is not a saved chat, nor JSON ({error})") from error


def _read(data: Any) -> SavedChat:
    version: Any = None
    if isinstance(data, Mapping) and data.get("format") == FORMAT:
        version = data.get("version")
        if isinstance(version, int) and version > VERSION:
            raise PromptError(
                "this chat was saved by a newer mlx-gptoss (format "
                f"{version}, this one reads {VERSION}): update it"
            )
    later = LATER_FIELDS.get(version, {}) if isinstance(version, int) else {}
    known = {**CHAT_FIELDS, **later}
    fields = checked_fields(data, "it", known)
    if fields["format"] != FORMAT or fields["version"] not in READABLE_VERSIONS:
        raise InvalidSavedChat(f"`format` is `{fields['format']}` {fields['version']}")
    messages = [
        message_from_json(message, f"messages[{n}]")
        for n, message in enumerate(fields["messages"])
    ]
    if not 0 <= fields["forgotten"] <= len(messages):
        raise InvalidSavedChat(
            f"`forgotten` is {fields['forgotten']} of {len(messages)}"
        )
    answered = count_trailing_results(messages)
    calls = [call_from_json(x, n, answered) for n, x in enumerate(fields["waiting"])]
    return SavedChat(
        id=fields["id"],
        title=fields["title"],
        created=_time(fields["created"], "created"),
        updated=_time(fields["updated"], "updated"),
        effort=_effort(fields["effort"]),
        system=fields["system"],
        identity=fields["identity"],
        date=fields["date"],
        forgotten=fields["forgotten"],
        messages=tuple(messages),
        waiting=tuple(calls),
        adapter=fields.get("adapter"),
        notes=fields.get("notes", {}),
    )


def _time(text: str, key: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidSavedChat(f"`{key}` is not a time: `{text}`") from None
    if time.tzinfo is None:
        raise InvalidSavedChat(f"`{key}` has no time zone: `{text}`")
    return time


def _effort(effort: Any) -> str:
    try:
        SystemContent(effort=effort)
    except PromptError as error:
        raise InvalidSavedChat(str(error)) from None
    return effort
