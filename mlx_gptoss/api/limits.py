"""Checks of a request's size and shape, before any work is done for it."""

import json
from collections.abc import Sequence
from typing import Any

from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.api.settings import Limits

AROUND_SCHEMAS = 8  # objects and lists around a schema, or in an item of a request


def check_count(what: str, count: int, most: int) -> None:
    """Raise ApiError (400) for too many of something."""
    if count > most:
        raise bad_request(
            f"`{what}` has {count} entries: this server takes {most} at most",
            param=what,
        )


def check_most(what: str, value: int, most: int) -> None:
    """Raise ApiError (400) for a number that is too large."""
    if value > most:
        raise bad_request(
            f"`{what}` is {value}: this server takes {most} at most", param=what
        )


def check_depth(what: str, value: Any, limits: Limits) -> None:
    """Raise ApiError (400) for a JSON value that is nested too deeply."""
    most = limits.schema_depth + AROUND_SCHEMAS
    if depth_of(value, most) > most:
        raise bad_request(f"`{what}` is nested more than {most} deep", param=what)


def check_schema(what: str, schema: Any, limits: Limits) -> None:
    """Raise ApiError (400) for a schema that is too deep or too long to compile."""
    if depth_of(schema, limits.schema_depth) > limits.schema_depth:
        raise bad_request(
            f"the schema of {what} is nested more than {limits.schema_depth} deep: "
            "flatten it",
            param=what,
        )
    size = len(json.dumps(schema))
    if size > limits.schema_bytes:
        raise bad_request(
            f"the schema of {what} has {size} bytes: this server takes "
            f"{limits.schema_bytes} at most",
            param=what,
        )


def depth_of(value: Any, most: int) -> int:
    """Count the objects and lists around the innermost value, to `most` + 1."""
    level, depth = [value], 0
    while level and depth <= most:
        level = [inner for outer in level for inner in _inside(outer)]
        depth += bool(level)
    return depth


def check_stops(stop: str | Sequence[str] | None, limits: Limits) -> tuple[str, ...]:
    """Return the stop strings; raises ApiError (400) for too many or empty ones."""
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    check_count("stop", len(stops), limits.stops)
    for one in stops:
        if not 0 < len(one) <= limits.stop_characters:
            raise bad_request(
                f"a `stop` string has {len(one)} characters: give 1 to "
                f"{limits.stop_characters}",
                param="stop",
            )
    return stops


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values()) or [None]
    if isinstance(value, list):
        return value or [None]
    return []
