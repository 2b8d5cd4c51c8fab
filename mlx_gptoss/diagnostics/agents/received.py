"""What replies must look like: the parts that clients of OpenAI and Anthropic read.

Bodies are checked field by field (`pydantic`); more fields than these are allowed.
Knows the protocols, not who speaks them.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, JsonValue, ValidationError

from mlx_gptoss.errors import GptOssError

Text = Annotated[str, Field(min_length=1)]


class BadShape(GptOssError):
    """A reply is not what its protocol promises."""


# /v1/chat/completions


class Function(BaseModel):
    name: Text
    arguments: str


class ChatCall(BaseModel):
    id: Text
    type: Literal["function"]
    function: Function


class Message(BaseModel):
    role: Literal["assistant"]
    content: str | None
    reasoning: str | None = None
    tool_calls: list[ChatCall] | None = None


class Choice(BaseModel):
    index: int
    message: Message
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"]


class ChatUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    id: Text
    object: Literal["chat.completion"]
    created: int
    model: Text
    choices: Annotated[list[Choice], Field(min_length=1)]
    usage: ChatUsage


class FunctionDelta(BaseModel):
    name: str | None = None
    arguments: str | None = None


class CallDelta(BaseModel):
    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta | None = None


class Delta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning: str | None = None
    tool_calls: list[CallDelta] | None = None


class ChunkChoice(BaseModel):
    index: int
    delta: Delta
    finish_reason: str | None = None


class Chunk(BaseModel):
    id: Text
    object: Literal["chat.completion.chunk"]
    created: int
    model: Text
    choices: list[ChunkChoice]
    usage: ChatUsage | None = None


# /v1/responses


class ReasoningText(BaseModel):
    type: Literal["reasoning_text"]
    text: Text


class ReasoningItem(BaseModel):
    type: Literal["reasoning"]
    id: Text
    summary: list[Any]
    content: list[ReasoningText] | None = None


class OutputText(BaseModel):
    type: Literal["output_text"]
    text: str
    annotations: list[Any]


class MessageItem(BaseModel):
    type: Literal["message"]
    id: Text
    role: Literal["assistant"]
    status: Literal["in_progress", "completed", "incomplete"]
    content: list[OutputText]


class FunctionCallItem(BaseModel):
    type: Literal["function_call"]
    id: Text
    call_id: Text
    name: Text
    arguments: str


class CustomCallItem(BaseModel):
    type: Literal["custom_tool_call"]
    id: Text
    call_id: Text
    name: Text
    input: str


Item = Annotated[
    ReasoningItem | MessageItem | FunctionCallItem | CustomCallItem,
    Field(discriminator="type"),
]


class ResponseUsage(BaseModel):
    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens_details: dict[str, int]


class Response(BaseModel):
    id: Text
    object: Literal["response"]
    created_at: float
    model: Text
    status: Literal["completed", "incomplete"]
    output: list[Item]
    usage: ResponseUsage
    parallel_tool_calls: bool
    tools: list[Any]


# /v1/messages


class TextBlock(BaseModel):
    type: Literal["text"]
    text: str


class ThinkingBlock(BaseModel):
    type: Literal["thinking"]
    thinking: str
    signature: str


class ToolUseBlock(BaseModel):
    type: Literal["tool_use"]
    id: Text
    name: Text
    input: dict[str, JsonValue]


Block = Annotated[TextBlock | ThinkingBlock | ToolUseBlock, Field(discriminator="type")]


class MessagesUsage(BaseModel):
    input_tokens: int
    output_tokens: int


class AnthropicMessage(BaseModel):
    id: Text
    type: Literal["message"]
    role: Literal["assistant"]
    model: Text
    content: list[Block]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
    usage: MessagesUsage


Shape = TypeVar("Shape", bound=BaseModel)


def read(kind: type[Shape], body: Any) -> Shape:
    """Return `body` as the shape, or raise BadShape with the first fault."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadShape(f"{kind.__name__}: `{where}`: {first['msg']}") from error


def require(fact: object, fault: str) -> None:
    """Raise BadShape unless `fact` holds."""
    if not fact:
        raise BadShape(fault)
