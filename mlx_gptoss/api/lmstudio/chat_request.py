"""Read LM Studio's `/api/v1/chat` as a request of OpenAI's Responses.

The conversation is kept as that of a response: the system prompt is its first message,
so it holds for the turns that continue it.
"""

from typing import Any, Literal

from mlx_gptoss.api.efforts import NO_REASONING
from mlx_gptoss.api.errors import ApiError, bad_request
from mlx_gptoss.api.responses.wire import ResponsesRequest
from mlx_gptoss.api.sampling_fields import (
    Probability,
    Temperature,
    TokenLimit,
    TopK,
    TopP,
)
from mlx_gptoss.api.wire import FailFastList, JsonObject, RequestModel

# `text` is what LM Studio's example has, `message` what its table has.
TEXT_PARTS = ("text", "message")
EFFORTS = {"off": NO_REASONING, "on": None}
KEPT = (
    "model",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "max_output_tokens",
    "store",
    "previous_response_id",
    "stream",
)


class StudioChatPart(RequestModel):
    """A part of the user's message: a text, or an image."""

    type: str
    content: str | None = None
    data_url: str | None = None


class StudioChatRequest(RequestModel):
    """The body of `/api/v1/chat`; fields that are kept are those of Responses."""

    model: str
    input: str | FailFastList[StudioChatPart]
    system_prompt: str | None = None
    integrations: list[Any] | None = None
    stream: bool | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: Probability | None = None
    max_output_tokens: TokenLimit | None = None
    reasoning: Literal["off", "low", "medium", "high", "on"] | None = None
    store: bool | None = None
    previous_response_id: str | None = None


def as_response_request(body: StudioChatRequest) -> ResponsesRequest:
    """Return the request of Responses that asks the same.

    Raises ApiError for tools that a server would have to run.
    """
    if body.integrations:
        raise ApiError(
            501,
            "`integrations`: this server runs no tools over HTTP: send `tools` to "
            "`/v1/responses` and run them yourself",
            "not_supported",
            "integrations",
        )
    fields: JsonObject = {name: getattr(body, name) for name in KEPT}
    effort = EFFORTS.get(body.reasoning or "on", body.reasoning)
    fields["reasoning"] = {"effort": effort} if effort else None
    fields["input"] = input_items(body)
    fields["return_progress"] = body.stream
    given = {name: value for name, value in fields.items() if value is not None}
    return ResponsesRequest.model_validate(given)


def input_items(body: StudioChatRequest) -> list[JsonObject]:
    items: list[JsonObject] = []
    if body.system_prompt:
        items.append(message("system", body.system_prompt))
    if isinstance(body.input, str):
        return [*items, message("user", body.input)]
    return [*items, message("user", [content_part(part) for part in body.input])]


def message(role: str, content: Any) -> JsonObject:
    return {"type": "message", "role": role, "content": content}


def content_part(part: StudioChatPart) -> JsonObject:
    if part.type == "image":
        return {"type": "input_image", "image_url": part.data_url}
    if part.type not in TEXT_PARTS or part.content is None:
        raise bad_request(
            "`input` has parts of type text with `content`, or image", param="input"
        )
    return {"type": "input_text", "text": part.content}
