"""Anthropic's Messages: what is asked.

Content blocks are read by `messages/blocks.py`: there are many kinds.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mlx_gptoss.api.aliases import MESSAGES
from mlx_gptoss.api.chat.wire import EffortName, Probability, Seed, TokenLimit, TopK
from mlx_gptoss.api.wire import (
    ContinuationFields,
    FailFastList,
    Json,
    ReplyModel,
    RequestBody,
    RequestModel,
)

BlockContent = str | FailFastList[Json]


class InputMessage(RequestModel):
    role: Literal["user", "assistant", "system"]
    content: BlockContent


class AnthropicTool(RequestModel):
    """A tool; those with a `type` of their own are others' and not offered."""

    name: str | None = None
    type: str | None = None
    description: str | None = None
    input_schema: Json | None = None
    strict: bool | None = None


class ThinkingOptions(RequestModel):
    """Whether reasoning is shown; `disabled` lets the model answer at once."""

    type: str
    budget_tokens: Annotated[int, Field(ge=0)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputConfig(RequestModel):
    effort: EffortName | None = None
    format: Json | None = None


class CountTokensRequest(RequestBody, ContinuationFields):
    """What decides the prompt: the body of `/v1/messages/count_tokens`."""

    api: ClassVar[str] = MESSAGES

    model: str | None = None
    messages: Annotated[FailFastList[InputMessage], Field(min_length=1)]
    system: BlockContent | None = None
    tools: FailFastList[AnthropicTool] | None = None
    tool_choice: Json | None = None
    thinking: ThinkingOptions | None = None
    output_config: OutputConfig | None = None
    max_reasoning_tokens: Annotated[int, Field(ge=0)] | None = None


class MessageFields(CountTokensRequest):
    """How an answer is written: the fields of a message beside those of its prompt."""

    stop_sequences: FailFastList[str] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: TopK | None = None
    min_p: Probability | None = None
    seed: Seed | None = None
    metadata: Json | None = None
    service_tier: str | None = None


class MessagesRequest(MessageFields):
    """The body of `/v1/messages`."""

    max_tokens: TokenLimit


class RenderMessageRequest(MessageFields):
    """The body of `/v1/messages/render`."""

    max_tokens: TokenLimit | None = None


# Replies

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
