"""The prompts, the tool and its result that all steps use."""

import json
from typing import Any

from mlx_gptoss.diagnostics.agents.received import require

MAX_TOKENS = 1024
HELLO = "Hello!"
ASK = "What is the weather in Oslo?"
RESULT = '{"temperature": 21}'
TOOL = "get_weather"
DESCRIPTION = "Gets the weather for a city."
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 40}},
    "required": ["city"],
    "additionalProperties": False,
}

Body = dict[str, Any]


def user_message(text: str) -> Body:
    """Return a user message."""
    return {"role": "user", "content": text}


def non_empty(text: str | None) -> str:
    """Return an answer, stripped; raise InvalidReply if it is empty."""
    require(text and text.strip(), "the answer is empty")
    return str(text).strip()


def city_of(name: str, arguments: str) -> str:
    """Return the city in a tool call's arguments, a JSON text."""
    require(name == TOOL, f"`{name}` was called, which was not offered")
    found = json.loads(arguments)
    require(isinstance(found.get("city"), str), f"the arguments are {arguments}")
    return found["city"]
