"""Read conversations in Harmony's own form, as openai_harmony writes them as JSON.

    {"role": "assistant", "channel": "final", "content": [{"type": "text", ...}]}

`recipient`, `content_type`, `name` and contents of type `system_content` and
`developer_content` are read as `Conversation.from_json` of that library reads them,
which fills in what a system content lacks. Raises PromptError.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony import messages as m
from mlx_gptoss.harmony.json_text import Json

HEADER_FIELDS = ("channel", "recipient", "content_type")
KINDS = {str: "text", list: "list", Mapping: "JSON object"}
SYSTEM, DEVELOPER, TEXT = "system_content", "developer_content", "text"


def is_harmony_form(messages: Sequence[Json]) -> bool:
    """Whether messages have keys or contents that only Harmony's own form has."""
    return any(
        any(one.get(key) is not None for key in (*HEADER_FIELDS, "author"))
        or any(part.get("type") in (SYSTEM, DEVELOPER) for part in _parts(one))
        for one in messages
    )


def read_harmony(messages: Sequence[Json]) -> list[m.Message]:
    """Return the messages, one for each that is given."""
    return [_message(one, f"messages[{at}]") for at, one in enumerate(messages)]


def _parts(one: Json) -> list[Json]:
    content = one.get("content")
    listed = content if isinstance(content, list) else [content]
    return [part for part in listed if isinstance(part, Mapping)]


def _message(one: Json, where: str) -> m.Message:
    author = one.get("author")
    author = author if isinstance(author, Mapping) else one
    fields = {key: author.get(key) for key in ("role", "name")}
    fields |= {key: one.get(key) for key in HEADER_FIELDS}
    for key, value in fields.items():
        if not isinstance(value, str | None):
            raise PromptError(f"{where} has a `{key}` that is no text")
    role = fields.pop("role")
    if role is None:
        raise PromptError(f"{where} has no `role`: use {', '.join(m.ROLES)}")
    return m.Message(role, _content(one, where), **fields)


def _content(one: Json, where: str) -> m.Content:
    content = one.get("content")
    if isinstance(content, str):
        return content
    parts = _parts(one)
    kinds = [part.get("type") for part in parts]
    if kinds == [SYSTEM]:
        return _system(parts[0], where)
    if kinds == [DEVELOPER]:
        return _developer(parts[0], where)
    whole = isinstance(content, list) and len(parts) == len(content)
    texts = [part.get("text") for part in parts if part.get("type") == TEXT]
    only_texts = len(texts) == len(parts) > 0
    if not (whole and only_texts and all(isinstance(text, str) for text in texts)):
        raise PromptError(
            f"{where} has a `content` that is neither text nor one of openai_harmony's "
            "contents"
        )
    return "".join(map(str, texts))


def _system(part: Json, where: str) -> m.SystemContent:
    read = partial(_field, part, where)
    channels = read("channel_config", Mapping, {"valid_channels": list(m.CHANNELS)})
    if channels is not None and channels.get("channel_required") is False:
        raise PromptError(f"{where} does not require a channel, as gpt-oss must")
    effort = read("reasoning_effort", str, "medium")
    valid = _field(channels or {}, where, "valid_channels", list, [])
    return m.SystemContent(
        identity=read("model_identity", str, m.IDENTITY),
        knowledge_cutoff=read("knowledge_cutoff", str, m.KNOWLEDGE_CUTOFF),
        conversation_date=read("conversation_start_date", str),
        effort=None if effort is None else effort.lower(),  # pyright: ignore[reportArgumentType] - checked
        namespaces=tuple(_namespaces(part, where).values()),
        channels=tuple(map(str, valid or ())),
    )


def _developer(part: Json, where: str) -> m.DeveloperContent:
    namespaces = _namespaces(part, where)
    functions = namespaces.pop(m.FUNCTIONS, m.ToolNamespace(m.FUNCTIONS))
    if functions.description:
        raise PromptError(
            f"{where} describes `functions`, which no prompt of ours does"
        )
    instructions = _field(part, where, "instructions", str)
    return m.DeveloperContent(instructions, functions.tools, tuple(namespaces.values()))


def _namespaces(part: Json, where: str) -> dict[str, m.ToolNamespace]:
    """Return the namespaces of tools by name."""
    found: dict[str, m.ToolNamespace] = {}
    given = _field(part, where, "tools", Mapping, {}) or {}
    for name in given:
        one = _field(given, where, name, Mapping) or {}
        tools = _field(one, where, "tools", list, []) or ()
        found[name] = m.ToolNamespace(
            _field(one, where, "name", str, name) or name,
            _field(one, where, "description", str),
            tuple(_tool(tool, where) for tool in tools),
        )
    return found


def _tool(one: Any, where: str) -> m.ToolDescription:
    if not isinstance(one, Mapping) or not isinstance(one.get("name"), str):
        raise PromptError(f"{where} has a tool without a `name`")
    return m.ToolDescription(
        one["name"],
        _field(one, where, "description", str) or "",
        _field(one, where, "parameters", Mapping),
    )


def _field(
    part: Json, where: str, key: str, kind: type[Any], default: Any = None
) -> Any:
    """Return a value of a content, or None; raises PromptError for another kind."""
    value = part.get(key, default)
    if not isinstance(value, kind | None):
        raise PromptError(f"{where} has a `{key}` that is no {KINDS[kind]}")
    return value
