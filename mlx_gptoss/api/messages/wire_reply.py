"""Anthropic's Messages: what is answered, and the form of errors."""

from typing import Annotated, Literal

from pydantic import Field

from mlx_gptoss.api.wire import Json, ReplyModel

StopReason = Literal[
    "end_turn",
    "max_tokens",
    "stop_sequence",
    "tool_use",
    "model_context_window_exceeded",
]


class ThinkingBlock(ReplyModel):
    type: Literal["thinking"] = "thinking"
    thinking: str
    signature: str


class TextBlock(ReplyModel):
    type: Literal["text"] = "text"
    text: str
    citations: list[Json] = Field(default_factory=list)


class DirectCaller(ReplyModel):
    type: Literal["direct"] = "direct"


class ToolUseBlock(ReplyModel):
    type: Literal["tool_use"] = "tool_use"
    id: str
    name: str
    input: Json
    caller: DirectCaller = Field(default_factory=DirectCaller)


ContentBlock = Annotated[
    ThinkingBlock | TextBlock | ToolUseBlock, Field(discriminator="type")
]


class ThinkingTokensDetails(ReplyModel):
    thinking_tokens: int


class CacheCreation(ReplyModel):
    """Tokens that were paid to be kept: here they are kept for nothing."""

    ephemeral_5m_input_tokens: int = 0
    ephemeral_1h_input_tokens: int = 0


class MessageDeltaUsage(ReplyModel):
    """`input_tokens` are those that had to be read; the others were in the cache."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: ThinkingTokensDetails
    server_tool_use: None = None


class MessagesUsage(MessageDeltaUsage):
    """That of a whole message, which says more than the one at a stream's end."""

    cache_creation: CacheCreation = Field(default_factory=CacheCreation)
    inference_geo: None = None
    service_tier: Literal["standard"] = "standard"


class MessagesReply(ReplyModel):
    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[ContentBlock]
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    stop_details: None = None
    container: None = None
    usage: MessagesUsage

    def json_text(self) -> str:
        return self.model_dump_json()


class TokenCount(ReplyModel):
    input_tokens: int


class AnthropicError(ReplyModel):
    type: str
    message: str


class AnthropicErrorReply(ReplyModel):
    """Anthropic's form of an error."""

    type: Literal["error"] = "error"
    error: AnthropicError
    request_id: None = None
