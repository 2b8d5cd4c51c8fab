"""One conversation, as each of the three APIs writes it.

talk = [User("?"), Called("A", "B"), Result("B"), Result("A"), Said("It is")]
for api in APIS: body = api.body(talk, max_tokens=9)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_gptoss.harmony import messages as m
from mlx_gptoss.harmony.json_text import json_text
from tests.support.serving import WEATHER

PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
Json = dict[str, Any]


@dataclass(frozen=True)
class User:
    text: str
    picture: bool = False


@dataclass(frozen=True)
class Said:
    text: str


@dataclass(frozen=True, init=False)
class Called:
    ids: tuple[str, ...]

    def __init__(self, *ids: str) -> None:
        object.__setattr__(self, "ids", ids)


@dataclass(frozen=True)
class Result:
    id: str
    picture: bool = False

    @property
    def text(self) -> str:
        return f"sun in {self.id}"


Step = User | Said | Called | Result


def arguments(id: str) -> Json:
    return {"city": id}


def call(id: str) -> m.Message:
    return m.tool_call("get_weather", json_text(arguments(id)))


def result(id: str) -> m.Message:
    return m.tool_result("get_weather", Result(id).text)


@dataclass(frozen=True)
class Api:
    """How an API is asked, and where in a whole reply its answer's text stands."""

    path: str
    render: str
    write: Callable[[Step], Json]
    field: str
    tool: Json
    limit: str
    text: Callable[[Json], str]
    delta: Callable[[Json], str]

    def body(self, talk: Sequence[Step], **fields: Any) -> Json:
        said = [self.write(step) for step in talk]
        if self.field == "input":
            said = [item for one in said for item in one["items"]]
        sizes = {self.limit: fields.pop("max_tokens", 60)}
        return {"model": "demo", "temperature": 0, self.field: said} | sizes | fields


def _content(step: User | Result, text: str, picture: Json) -> list[Json]:
    return [{"type": text, "text": step.text}, *([picture] if step.picture else [])]


def _chat(step: Step) -> Json:
    picture = {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{PICTURE}"},
    }
    match step:
        case User():
            return {"role": "user", "content": _content(step, "text", picture)}
        case Said(text):
            return {"role": "assistant", "content": text}
        case Result():
            content = _content(step, "text", picture)
            return {"role": "tool", "tool_call_id": step.id, "content": content}
    calls = [
        {
            "id": id,
            "type": "function",
            "function": {
                "name": "get_weather",
                "arguments": json_text(arguments(id)),
            },
        }
        for id in step.ids
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def _messages(step: Step) -> Json:
    source = {"type": "base64", "media_type": "image/png", "data": PICTURE}
    picture = {"type": "image", "source": source}
    match step:
        case User():
            return {"role": "user", "content": _content(step, "text", picture)}
        case Said(text):
            return {"role": "assistant", "content": text}
        case Result():
            block = {
                "type": "tool_result",
                "tool_use_id": step.id,
                "content": _content(step, "text", picture),
            }
            return {"role": "user", "content": [block]}
    calls = [
        {"type": "tool_use", "id": id, "name": "get_weather", "input": arguments(id)}
        for id in step.ids
    ]
    return {"role": "assistant", "content": calls}


def _responses(step: Step) -> Json:
    picture = {
        "type": "input_image",
        "image_url": f"data:image/png;base64,{PICTURE}",
    }
    match step:
        case User():
            content = _content(step, "input_text", picture)
            return {"items": [{"role": "user", "content": content}]}
        case Said(text):
            return {"items": [{"role": "assistant", "content": text}]}
        case Result():
            output = {"type": "function_call_output", "call_id": step.id}
            content = _content(step, "input_text", picture)
            return {"items": [{**output, "output": content}]}
    calls = [
        {
            "type": "function_call",
            "call_id": id,
            "name": "get_weather",
            "arguments": json_text(arguments(id)),
        }
        for id in step.ids
    ]
    return {"items": calls}


def _texts(items: Sequence[Json], kind: str) -> str:
    return "".join(one["text"] for one in items if one["type"] == kind)


FUNCTION = WEATHER["function"]
APIS = (
    Api(
        "/v1/chat/completions",
        "/v1/chat/render",
        _chat,
        "messages",
        WEATHER,
        "max_completion_tokens",
        lambda reply: reply["choices"][0]["message"]["content"],
        lambda event: (
            event["choices"][0]["delta"].get("content", "") if event["choices"] else ""
        ),
    ),
    Api(
        "/v1/responses",
        "/v1/responses/render",
        _responses,
        "input",
        {"type": "function", **FUNCTION},
        "max_output_tokens",
        lambda reply: "".join(
            _texts(item["content"], "output_text")
            for item in reply["output"]
            if item["type"] == "message"
        ),
        lambda event: (
            event["delta"] if event["type"] == "response.output_text.delta" else ""
        ),
    ),
    Api(
        "/v1/messages",
        "/v1/messages/render",
        _messages,
        "messages",
        {
            "name": FUNCTION["name"],
            "description": FUNCTION["description"],
            "input_schema": FUNCTION["parameters"],
        },
        "max_tokens",
        lambda reply: _texts(reply["content"], "text"),
        lambda event: event.get("delta", {}).get("text", ""),
    ),
)
