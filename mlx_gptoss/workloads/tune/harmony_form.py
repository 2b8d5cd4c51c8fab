"""Read conversations in Harmony's own form, as openai_harmony writes them as JSON.

    {"role": "assistant", "channel": "final", "content": [{"type": "text", ...}]}

`recipient`, `content_type`, `name` and contents of type `system_content` and
`developer_content` are read as `Conversation.from_json` of that library reads them,
which fills in what a system content lacks. Raises PromptError.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony import messages as m
from mlx_gptoss.harmony.json_text import Json

HEADER_FIELDS = ("channel", "recipient", "content_type")
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
    texts = [part.get("text") for part in parts]
    readable = set(kinds) == {TEXT} and all(isinstance(text, str) for text in texts)
    if not (whole and readable):
        raise PromptError(
            f"{where} has a `content` that is neither text nor one of openai_harmony's "
            "contents"
        )
    return "".join(map(str, texts))


def _system(part: Json, where: str) -> m.SystemContent:
    effort = part.get("reasoning_effort", "medium")
    channels = part.get("channel_config", {"valid_channels": list(m.CHANNELS)})
    if channels is not None and channels.get("channel_required") is False:
        raise PromptError(f"{where} does not require a channel, as gpt-oss must")
    return m.SystemContent(
        identity=part.get("model_identity", m.IDENTITY),
        knowledge_cutoff=part.get("knowledge_cutoff", m.KNOWLEDGE_CUTOFF),
        conversation_date=part.get("conversation_start_date"),
        effort=None if effort is None else str(effort).lower(),  # pyright: ignore[reportArgumentType] - checked
        namespaces=tuple(_namespaces(part, where).values()),
        channels=tuple((channels or {}).get("valid_channels", ())),
    )


def _developer(part: Json, where: str) -> m.DeveloperContent:
    namespaces = _namespaces(part, where)
    functions = namespaces.pop(m.FUNCTIONS, m.ToolNamespace(m.FUNCTIONS))
    if functions.description:
        raise PromptError(
            f"{where} describes `functions`, which no prompt of ours does"
        )
    return m.DeveloperContent(
        part.get("instructions"), functions.tools, tuple(namespaces.values())
    )


def _namespaces(part: Json, where: str) -> dict[str, m.ToolNamespace]:
    """Return the namespaces of tools by name."""
    given: Any = part.get("tools") or {}
    if not isinstance(given, Mapping):
        raise PromptError(f"{where} has `tools` that are not openai_harmony's")
    try:
        return {
            name: m.ToolNamespace(
                one.get("name", name),
                one.get("description"),
                tuple(map(_tool, one.get("tools", ()))),
            )
            for name, one in given.items()
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise PromptError(f"{where} has a tool that cannot be read: {error}") from error


def _tool(one: Json) -> m.ToolDescription:
    return m.ToolDescription(
        one["name"], one.get("description") or "", one.get("parameters")
    )
