"""Arguments of a call as an object, for the APIs that do not have them as text."""

import json
from typing import Any

INVALID_JSON = "INVALID_JSON"  # Anthropic's key for arguments that are not an object


def arguments_object(arguments: str) -> tuple[dict[str, Any], str]:
    """Return the arguments of a call as an object and as JSON.

    Text that is not a JSON object is wrapped in one: a tool that needs no arguments
    would run on an empty object.
    """
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        return value, arguments
    wrapped = {INVALID_JSON: arguments}
    return wrapped, json.dumps(wrapped)
