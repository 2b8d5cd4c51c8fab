"""Models of received replies: the fields that OpenAI and Anthropic clients read.

They deliberately do not share classes with the wire types of `mlx_gptoss.api`: a check
against the server's own models would accept any mistake in them. Additional fields are
allowed. Knows the protocols, not the server.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, JsonValue, ValidationError

from mlx_gptoss.errors import GptOssError

NonEmptyText = Annotated[str, Field(min_length=1)]


class InvalidReply(GptOssError):
    """A reply does not conform to its protocol."""


# /v1/chat/completions


class ReceivedFunction(BaseModel):
    name: NonEmptyText
    arguments: str


class ReceivedToolCall(BaseModel):
    id: NonEmptyText
    type: Literal["function"]
    function: ReceivedFunction


class ReceivedMessage(BaseModel):
    role: Literal["assistant"]
    content: str | None
    reasoning: str | None = None
    tool_calls: list[ReceivedToolCall] | None = None


class ReceivedChoice(BaseModel):
    index: int
    message: ReceivedMessage
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"]


class ReceivedChatUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ReceivedCompletion(BaseModel):
    id: NonEmptyText
    object: Literal["chat.completion"]
    created: int
    model: NonEmptyText
    choices: Annotated[list[ReceivedChoice], Field(min_length=1)]
    usage: ReceivedChatUsage


class ReceivedFunctionDelta(BaseModel):
    name: str | None = None
    arguments: str | None = None


class ReceivedToolCallDelta(BaseModel):
    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: ReceivedFunctionDelta | None = None


class ReceivedDelta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ReceivedToolCallDelta] | None = None


class ReceivedChunkChoice(BaseModel):
    index: int
    delta: ReceivedDelta
    finish_reason: str | None = None


class ReceivedChunk(BaseModel):
    id: NonEmptyText
    object: Literal["chat.completion.chunk"]
    created: int
    model: NonEmptyText
    choices: list[ReceivedChunkChoice]
    usage: ReceivedChatUsage | None = None


# /v1/responses


class ReceivedReasoningText(BaseModel):
    type: Literal["reasoning_text"]
    text: NonEmptyText


class ReceivedReasoningItem(BaseModel):
    type: Literal["reasoning"]
    id: NonEmptyText
    summary: list[Any]
    content: list[ReceivedReasoningText] | None = None


class ReceivedOutputText(BaseModel):
    type: Literal["output_text"]
    text: str
    annotations: list[Any]


class ReceivedMessageItem(BaseModel):
    type: Literal["message"]
    id: NonEmptyText
    role: Literal["assistant"]
    status: Literal["in_progress", "completed", "incomplete"]
    content: list[ReceivedOutputText]


class ReceivedFunctionCall(BaseModel):
    type: Literal["function_call"]
    id: NonEmptyText
    call_id: NonEmptyText
    name: NonEmptyText
    arguments: str


class ReceivedCustomCall(BaseModel):
    type: Literal["custom_tool_call"]
    id: NonEmptyText
    call_id: NonEmptyText
    name: NonEmptyText
    input: str


ReceivedItem = Annotated[
    ReceivedReasoningItem
    | ReceivedMessageItem
    | ReceivedFunctionCall
    | ReceivedCustomCall,
    Field(discriminator="type"),
]


class ReceivedResponseUsage(BaseModel):
    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens_details: dict[str, int]


class ReceivedResponse(BaseModel):
    id: NonEmptyText
    object: Literal["response"]
    created_at: float
    model: NonEmptyText
    status: Literal["completed", "incomplete"]
    output: list[ReceivedItem]
    usage: ReceivedResponseUsage
    parallel_tool_calls: bool
    tools: list[Any]


# /v1/messages


class ReceivedTextBlock(BaseModel):
    type: Literal["text"]
    text: str


class ReceivedThinkingBlock(BaseModel):
    type: Literal["thinking"]
    thinking: str
    signature: str


class ReceivedToolUse(BaseModel):
    type: Literal["tool_use"]
    id: NonEmptyText
    name: NonEmptyText
    input: dict[str, JsonValue]


ReceivedBlock = Annotated[
    ReceivedTextBlock | ReceivedThinkingBlock | ReceivedToolUse,
    Field(discriminator="type"),
]


class ReceivedMessagesUsage(BaseModel):
    input_tokens: int
    output_tokens: int


class ReceivedAnthropicMessage(BaseModel):
    id: NonEmptyText
    type: Literal["message"]
    role: Literal["assistant"]
    model: NonEmptyText
    content: list[ReceivedBlock]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
    usage: ReceivedMessagesUsage


Model = TypeVar("Model", bound=BaseModel)


def validate(kind: type[Model], body: Any) -> Model:
    """Validate `body`; raise InvalidReply with the first error."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        name = kind.__name__.removeprefix("Received")
        raise InvalidReply(f"{name}: `{where}`: {first['msg']}") from error


def require(fact: object, fault: str) -> None:
    """Raise InvalidReply unless `fact` is true."""
    if not fact:
        raise InvalidReply(fault)
