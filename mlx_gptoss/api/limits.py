"""Check the size and shape of a request, before any work is done for it."""

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.api.settings import RequestLimits

# Objects and lists around a schema, or within an item of a request.
LEVELS_AROUND_SCHEMA = 8


def check_count(field: str, count: int, limit: int) -> None:
    """Raise ApiError (400) for too many entries."""
    if count > limit:
        raise bad_request(
            f"`{field}` has {count} entries: this server takes {limit} at most",
            param=field,
        )


def check_maximum(field: str, value: int, limit: int) -> None:
    """Raise ApiError (400) for a number that is too large."""
    if value > limit:
        raise bad_request(
            f"`{field}` is {value}: this server takes {limit} at most", param=field
        )


def check_depth(field: str, value: Any, limits: RequestLimits) -> None:
    """Raise ApiError (400) for a field that is nested too deeply."""
    limit = limits.schema_depth + LEVELS_AROUND_SCHEMA
    if nesting_depth(value, limit) > limit:
        raise bad_request(f"`{field}` is nested more than {limit} deep", param=field)


def check_schema(name: str, schema: Any, limits: RequestLimits) -> None:
    """Raise ApiError (400) for a schema that is too deep or too long to compile."""
    if nesting_depth(schema, limits.schema_depth) > limits.schema_depth:
        raise bad_request(
            f"the schema of {name} is nested more than {limits.schema_depth} deep: "
            "flatten it",
            param=name,
        )
    size = len(json.dumps(schema))
    if size > limits.schema_bytes:
        raise bad_request(
            f"the schema of {name} has {size} bytes: this server takes "
            f"{limits.schema_bytes} at most",
            param=name,
        )


def nesting_depth(value: Any, limit: int) -> int:
    """Count the objects and lists around the innermost value, up to `limit` + 1."""
    level, depth = [value], 0
    while level and depth <= limit:
        level = [inner for outer in level for inner in _children(outer)]
        depth += bool(level)
    return depth


def read_stop_strings(
    stop: str | Sequence[str] | None, limits: RequestLimits
) -> tuple[str, ...]:
    """Return the stop strings. Raises ApiError (400) for too many or empty ones."""
    strings = (stop,) if isinstance(stop, str) else tuple(stop or ())
    check_count("stop", len(strings), limits.stops)
    for string in strings:
        if not 0 < len(string) <= limits.stop_characters:
            raise bad_request(
                f"a `stop` string has {len(string)} characters: give 1 to "
                f"{limits.stop_characters}",
                param="stop",
            )
    return strings


def _children(value: Any) -> list[Any]:
    if isinstance(value, BaseModel):
        return [*value.__dict__.values(), *(value.model_extra or {}).values()]
    if isinstance(value, dict):
        return list(value.values()) or [None]
    if isinstance(value, list):
        return value or [None]
    return []
