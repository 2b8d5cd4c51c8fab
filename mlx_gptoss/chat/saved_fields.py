"""Check the keys and types of a saved chat's JSON objects. Knows no message."""

from collections.abc import Mapping
from typing import Any

Fields = Mapping[str, tuple[type, ...]]
OPTIONAL_TEXT = (str, type(None))


class InvalidSavedChat(Exception):
    """The data is not a saved chat: the message says what is wrong, and where."""


def checked_fields(
    data: Any, where: str, types: Fields, *, optional: bool = False
) -> dict[str, Any]:
    """Check that `data` is an object with these keys and types, and no others.

    With `optional`, keys may be missing. Raises InvalidSavedChat, which names `where`.
    """
    if not isinstance(data, Mapping):
        raise InvalidSavedChat(f"{where} is not a JSON object")
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
