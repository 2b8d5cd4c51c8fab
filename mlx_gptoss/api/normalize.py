"""A request in an API's own words, whatever other server its client was made for.

    found = respelled(body, CHAT, fields=ChatRequest.model_fields)
    found.body                   # `think: false` is now `reasoning_effort: "none"`
    found.passed_over            # spellings that another one has overruled

The API's own field goes first, then the table's order.
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlx_gptoss.api.aliases import (
    ABSENT,
    ANSWER_FORMAT,
    EFFORT,
    FIELD_ALIASES,
    IGNORED,
    KNOWN_PATHS,
    MESSAGES,
    OWN_FIELDS,
    SOME_REASONING,
    unparsed,
)
from mlx_gptoss.api.efforts import EFFORT_BY_NAME, NO_REASONING
from mlx_gptoss.api.errors import bad_request

# Fields that an API itself has beside the one a meaning is kept in: they stay where
# they are, and go before it.
ADDITIONAL_FIELDS = {MESSAGES: ("thinking.type", "thinking.budget_tokens")}
CONTAINERS = {path.split(".")[0] for path in KNOWN_PATHS if "." in path}
TEXT_FORMAT = {"type": "text"}  # a format that binds nothing
NEUTRAL_VALUES: Mapping[str, Any] = {  # values that ask for what is done anyway
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
    """A body in its API's own words, and the names of what has no effect."""

    body: dict[str, Any]
    ignored: list[str] = field(default_factory=list)


def normalize_fields(
    given: Mapping[str, Any], api: str, fields: Container[str]
) -> NormalizedBody:
    """Read a body by the table; `fields` are those that its API knows.

    Raises ApiError (400), which names the field as it was sent.
    """
    body = {
        name: dict(value) if isinstance(value, dict) and name in CONTAINERS else value
        for name, value in given.items()
    }
    found = NormalizedBody(body)
    for means in dict.fromkeys(one.meaning for one in FIELD_ALIASES):
        _resolve(means, api, found)
    for name in CONTAINERS:
        if name not in fields and isinstance(body.get(name), dict):
            left = body.pop(name)
            found.ignored += [
                path for key in left if has_request(path := f"{name}.{key}", left[key])
            ]
    return found


def has_request(name: str, value: Any) -> bool:
    """Whether a field that has no effect here asked for anything."""
    if name in NEUTRAL_VALUES:
        return value is not None and value != NEUTRAL_VALUES[name]
    return bool(value)


def _resolve(means: str, api: str, found: NormalizedBody) -> None:
    """Put what several spellings of one meaning say into the API's own field."""
    own = OWN_FIELDS[means].get(api)
    winner: Any = ABSENT
    for path, read in _parsers(means, own, api):
        value = _take(found.body, path)
        if value is None:
            continue
        if path in ADDITIONAL_FIELDS.get(api, ()):
            _put(found.body, path, value)
        try:
            value = read(value)
        except ValueError as error:
            if path == own:  # its own type says what is wrong with it
                _put(found.body, path, value)
                return
            raise bad_request(f"`{path}`: {error}", param=path) from None
        if value is ABSENT:
            continue
        if own is None and means == ANSWER_FORMAT and value != TEXT_FORMAT:
            raise bad_request(
                f"`{path}` cannot bind a raw completion here: ask "
                "`/v1/chat/completions` or `/v1/responses`",
                param=path,
            )
        if value is IGNORED or own is None:
            found.ignored.append(path)
        elif winner is ABSENT or _agree(means, winner, value):
            winner = value if winner in (ABSENT, SOME_REASONING) else winner
        else:
            found.ignored.append(path)
    if own is not None and winner not in (ABSENT, SOME_REASONING):
        _put(found.body, own, winner)


def _parsers(
    means: str, own: str | None, api: str
) -> list[tuple[str, Callable[[Any], Any]]]:
    """The places to look at, those of the API itself first."""
    rows = [one for one in FIELD_ALIASES if one.meaning == means]
    table = {path: row.parse for row in rows for path in row.paths}
    first = {
        path: table[path] for path in ADDITIONAL_FIELDS.get(api, ()) if path in table
    }
    if own is not None:
        first[own] = table.get(own, unparsed)
    return list((first | table).items())


def _agree(means: str, one: Any, other: Any) -> bool:
    if means == EFFORT:
        if SOME_REASONING in (one, other):
            return NO_REASONING not in (one, other)
        none = NO_REASONING in (one, other)
        return one == other or (
            not none and EFFORT_BY_NAME.get(one) == EFFORT_BY_NAME.get(other)
        )
    return one == other


def _take(body: dict[str, Any], path: str) -> Any:
    """Return what stands at a path, and take it away."""
    *outer, name = path.split(".")
    inside: Any = body
    for one in outer:
        inside = inside.get(one)
        if not isinstance(inside, dict):
            return None
    return inside.pop(name, None)


def _put(body: dict[str, Any], path: str, value: Any) -> None:
    """Write to a path; another type on the way to it is refused where it is read."""
    *outer, name = path.split(".")
    inside: Any = body
    for one in outer:
        if inside.get(one) is None:
            inside[one] = {}
        inside = inside[one]
        if not isinstance(inside, dict):
            return
    inside[name] = value
