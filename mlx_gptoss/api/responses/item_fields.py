"""Fields of input items, read from plain JSON."""

from collections.abc import Mapping
from typing import Any

from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.harmony.content_parts import ContentPart, read_part
from mlx_gptoss.harmony.json_text import Json

CONTINUES_ANSWER = "continues"  # a stored item that continues the answer before it


def item_type(item: Json) -> str:
    """Return the type of an item; messages may omit it, references have only an id."""
    kind = item.get("type")
    if isinstance(kind, str):
        return kind
    if "role" in item:
        return "message"
    return "item_reference" if item.keys() == {"id"} else ""


def is_reference(item: Any) -> bool:
    return isinstance(item, Mapping) and item_type(item) == "item_reference"


def listed_item(item: Json) -> dict[str, Any]:
    """Return an item as it is listed: a message has its text in a list of parts."""
    item = {key: value for key, value in item.items() if key != CONTINUES_ANSWER}
    content = item.get("content")
    if item_type(item) != "message" or not isinstance(content, str):
        return item
    part: Json = {"type": "input_text", "text": content}
    if item.get("role") == "assistant":
        part = {"type": "output_text", "text": content, "annotations": []}
    return {**item, "content": [part]}


def is_user_message(item: Json) -> bool:
    return item_type(item) == "message" and item.get("role") == "user"


def content_parts(
    content: Any, path: str, *, must_be_text: bool = False
) -> list[ContentPart]:
    """Return the parts of a content or an output, which may be a string."""
    if content is None or isinstance(content, str):
        return [ContentPart(content)] if content else []
    if not isinstance(content, list):
        raise bad_request(
            f"the content of `{path}` is neither text nor a list of parts", param=path
        )
    return [
        ContentPart(part)
        if isinstance(part, str)
        else read_part(part, path, must_be_text=must_be_text)
        for part in content
    ]


def required_string(item: Json, name: str, path: str) -> str:
    """Return a string field; only `input` may be empty."""
    value = item.get(name)
    if not isinstance(value, str) or (name != "input" and not value):
        raise bad_request(f"`{path}.{name}` must be a string", param=f"{path}.{name}")
    return value
