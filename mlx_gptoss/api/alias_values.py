"""Translate values of other servers' request fields to those of OpenAI's API.

Each parser returns the value in our form or raises ValueError, which says what it
expected. ABSENT is a value that asks for nothing, IGNORED one that asks for something
this server does not do. Knows JSON values; nothing of requests.
"""

import json
from collections.abc import Callable
from typing import Any

from mlx_gptoss.api.efforts import EFFORT_BY_NAME, NO_REASONING

NO_LIMIT = -1
SOME_REASONING = "on"  # any effort but none
REASONING_FIELD_BY_FORMAT = {  # names of llama.cpp and Groq
    "auto": "reasoning_content",
    "deepseek": "reasoning_content",
    "deepseek-legacy": "reasoning_content",
    "parsed": "reasoning",
}
RAW_FORMATS = ("none", "raw")  # reasoning within the text of the answer


class _Marker:
    """A value that is not there."""


ABSENT, IGNORED = _Marker(), _Marker()
ValueParser = Callable[[Any], Any]


def unparsed(value: Any) -> Any:
    """Return a value unchanged: the type of our own field checks it."""
    return value


def parse_effort(value: Any) -> Any:
    """Read the name of an effort."""
    if isinstance(value, str) and value in EFFORT_BY_NAME:
        return value
    raise ValueError(f"give {', '.join(EFFORT_BY_NAME)}")


def parse_thinking_switch(value: Any) -> Any:
    """Read whether to reason at all, or the name of an effort."""
    if isinstance(value, bool):
        return SOME_REASONING if value else NO_REASONING
    if isinstance(value, str) and value in EFFORT_BY_NAME:
        return value
    raise ValueError("give true or false")


def parse_thinking_type(value: Any) -> Any:
    """Read Anthropic's `type` of thinking."""
    if not isinstance(value, str):
        raise ValueError("give enabled or disabled")
    return NO_REASONING if value == "disabled" else SOME_REASONING


def parse_token_limit(value: Any) -> Any:
    """Read a number of tokens; -1, and Ollama's -2, are no limit."""
    if type(value) is int and (value >= 1 or value in (-1, -2)):
        return max(value, NO_LIMIT)
    raise ValueError("give a whole number, 1 or more, or -1 for no limit")


def parse_reasoning_limit(value: Any) -> Any:
    """Read a number of reasoning tokens; -1 leaves it to the server."""
    if type(value) is int and value >= -1:
        return ABSENT if value == NO_LIMIT else value
    raise ValueError("give a whole number, 0 or more, or -1")


def parse_stop_strings(value: Any) -> Any:
    """Read one stop string or a list of them."""
    strings = [value] if isinstance(value, str) else value
    if isinstance(strings, list) and all(isinstance(one, str) for one in strings):
        return strings
    raise ValueError("give a string, or a list of strings")


def parse_schema(value: Any) -> Any:
    """Read a JSON schema, as an object or as text; perhaps named, as OpenAI has it."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(
                "give a JSON schema, as an object or as its text"
            ) from None
    if not isinstance(value, dict):
        raise ValueError("give a JSON schema, as an object or as its text")
    named = isinstance(value.get("schema"), dict)  # not a keyword of JSON Schema
    return {"type": "json_schema", "json_schema": value if named else {"schema": value}}


def parse_ollama_format(value: Any) -> Any:
    """Read Ollama's `format`: "json", or a schema."""
    if value == "":
        return ABSENT
    if value == "json":
        return {"type": "json_object"}
    if isinstance(value, dict):
        return parse_schema(value)
    raise ValueError('give "json", or a JSON schema')


def parse_json_object_switch(value: Any) -> Any:
    if isinstance(value, bool):
        return {"type": "json_object"} if value else ABSENT
    raise ValueError("give true or false")


def parse_regex(value: Any) -> Any:
    if isinstance(value, str):
        return {"type": "regex", "regex": value} if value else ABSENT
    raise ValueError("give a regular expression")


def parse_grammar(value: Any) -> Any:
    if isinstance(value, str):
        return {"type": "grammar", "grammar": value} if value else ABSENT
    raise ValueError("give a grammar, in GBNF or Lark")


def parse_choice(value: Any) -> Any:
    """Read a list of strings to choose from, as a regular expression."""
    if isinstance(value, list) and value and all(isinstance(x, str) for x in value):
        escaped = ("".join(f"\\x{{{ord(c):x}}}" for c in one) for one in value)
        return {"type": "regex", "regex": "|".join(f"(?:{one})" for one in escaped)}
    raise ValueError("give a list of strings")


def refuse_structural_tag(value: Any) -> Any:
    raise ValueError(
        "structural tags are not enforced here: offer functions as `tools`, or give a "
        "`response_format`"
    )


def parse_reasoning_format(value: Any) -> Any:
    """Read the name that llama.cpp or Groq gives to the place of reasoning."""
    if value in RAW_FORMATS:
        return IGNORED
    if isinstance(value, str):
        return REASONING_FIELD_BY_FORMAT.get(value, value)
    return value
