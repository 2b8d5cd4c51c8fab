"""Rewrite a request body made for another server in the fields of an API.

    normalized = normalize_fields(body, CHAT, ChatRequest.model_fields)
    normalized.body              # `think: false` is now `reasoning_effort: "none"`
    normalized.ignored           # aliases that another field has overruled

The API's own field takes precedence, then the order of the table of aliases.
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlx_gptoss.api.alias_values import ABSENT, IGNORED, SOME_REASONING, unparsed
from mlx_gptoss.api.aliases import (
    ANSWER_FORMAT,
    EFFORT,
    FIELD_ALIASES,
    KNOWN_PATHS,
    MESSAGES,
    OWN_FIELDS,
)
from mlx_gptoss.api.efforts import EFFORT_BY_NAME, NO_REASONING
from mlx_gptoss.api.errors import bad_request

# Further fields of an API with a meaning that it keeps in another one: they stay in
# place and take precedence.
ADDITIONAL_FIELDS = {MESSAGES: ("thinking.type", "thinking.budget_tokens")}
CONTAINERS = {path.split(".")[0] for path in KNOWN_PATHS if "." in path}
TEXT_FORMAT = {"type": "text"}  # a format without constraints
NEUTRAL_VALUES: Mapping[str, Any] = {  # values that ask for nothing beyond the default
    "add_special_tokens": False,
    "cache_prompt": True,
    "chat_template_kwargs.add_generation_prompt": True,
    "include_reasoning": True,
    "include_stop_str_in_output": False,
    "length_penalty": 1,
    "parallel_tool_calls": True,
    "parse_tool_calls": True,
    "n": 1,
    "repeat_penalty": 1,
    "options.repeat_penalty": 1,
    "options.typical_p": 1,
    "repetition_penalty": 1,
    "separate_reasoning": True,
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "stream_reasoning": True,
    "tfs_z": 1,
    "typical_p": 1,
}


@dataclass
class NormalizedBody:
    """A body in its API's own fields, and the names of ignored fields."""

    body: dict[str, Any]
    ignored: list[str] = field(default_factory=list)


def normalize_fields(
    request: Mapping[str, Any], api: str, fields: Container[str]
) -> NormalizedBody:
    """Rewrite a body by the table of aliases; `fields` are those that its API knows.

    Raises ApiError (400), which names the field as it was sent.
    """
    body = {
        name: dict(value) if isinstance(value, dict) and name in CONTAINERS else value
        for name, value in request.items()
    }
    normalized = NormalizedBody(body)
    for meaning in dict.fromkeys(alias.meaning for alias in FIELD_ALIASES):
        _resolve(meaning, api, normalized)
    for name in CONTAINERS:
        if name not in fields and isinstance(body.get(name), dict):
            rest = body.pop(name)
            normalized.ignored += [
                path for key in rest if has_request(path := f"{name}.{key}", rest[key])
            ]
    return normalized


def has_request(name: str, value: Any) -> bool:
    """Whether the value of a field without effect asks for anything."""
    if name in NEUTRAL_VALUES:
        return value is not None and value != NEUTRAL_VALUES[name]
    return bool(value)


def _resolve(meaning: str, api: str, normalized: NormalizedBody) -> None:
    """Move the value of several aliases of one meaning to the API's own field."""
    own, body = OWN_FIELDS[meaning].get(api), normalized.body
    winner: Any = ABSENT
    for path, parse in _parsers(meaning, own, api):
        value = _take(body, path)
        if value is None:
            continue
        if path in ADDITIONAL_FIELDS.get(api, ()):
            _put(body, path, value)
        try:
            value = parse(value)
        except ValueError as error:
            if path == own:  # the type of the field reports the error
                _put(body, path, value)
                return
            raise bad_request(f"`{path}`: {error}", param=path) from None
        if value is ABSENT:
            continue
        if own is None and meaning == ANSWER_FORMAT and value != TEXT_FORMAT:
            raise bad_request(
                f"`{path}` cannot constrain a raw completion: ask "
                "`/v1/chat/completions` or `/v1/responses`",
                param=path,
            )
        if value is IGNORED or own is None:
            normalized.ignored.append(path)
        elif winner is ABSENT or _agree(meaning, winner, value):
            winner = value if winner in (ABSENT, SOME_REASONING) else winner
        else:
            normalized.ignored.append(path)
    if own is not None and winner not in (ABSENT, SOME_REASONING):
        _put(body, own, winner)


def _parsers(
    meaning: str, own: str | None, api: str
) -> list[tuple[str, Callable[[Any], Any]]]:
    """Return the paths to look at and their parsers, the API's own paths first."""
    aliases = [alias for alias in FIELD_ALIASES if alias.meaning == meaning]
    table = {path: alias.parse for alias in aliases for path in alias.paths}
    additional = ADDITIONAL_FIELDS.get(api, ())
    first = {path: table[path] for path in additional if path in table}
    if own is not None:
        first[own] = table.get(own, unparsed)
    return list((first | table).items())


def _agree(meaning: str, one: Any, other: Any) -> bool:
    """Whether two values of one meaning ask for the same."""
    if meaning != EFFORT:
        return one == other
    without_reasoning = NO_REASONING in (one, other)
    if SOME_REASONING in (one, other):
        return not without_reasoning
    if one == other:
        return True
    same_effort = EFFORT_BY_NAME.get(one) == EFFORT_BY_NAME.get(other)
    return not without_reasoning and same_effort


def _take(body: dict[str, Any], path: str) -> Any:
    """Remove the value at a path and return it, or None."""
    *outer, name = path.split(".")
    container: Any = body
    for key in outer:
        container = container.get(key)
        if not isinstance(container, dict):
            return None
    return container.pop(name, None)


def _put(body: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a path, unless a value that is not an object is in the way.

    That one is refused by the type of its field.
    """
    *outer, name = path.split(".")
    container: Any = body
    for key in outer:
        if container.get(key) is None:
            container[key] = {}
        container = container[key]
        if not isinstance(container, dict):
            return
    container[name] = value
