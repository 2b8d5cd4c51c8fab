"""Wire types of Anthropic's Messages, and its form of errors.

Content blocks of requests are plain JSON here and read by `blocks.py`: there are many
types.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mlx_gptoss.api.aliases import MESSAGES
from mlx_gptoss.api.efforts import EffortName
from mlx_gptoss.api.sampling_fields import (
    Probability,
    ReasoningTokenLimit,
    Seed,
    Temperature,
    TokenLimit,
    TopK,
    TopP,
)
from mlx_gptoss.api.wire import (
    ContinuationFields,
    FailFastList,
    JsonObject,
    ReplyModel,
    RequestBody,
    RequestModel,
    StreamFields,
)

StopReason = Literal[
    "end_turn",
    "max_tokens",
    "stop_sequence",
    "tool_use",
    "model_context_window_exceeded",
    "refusal",
]
BlockContent = str | FailFastList[JsonObject]


class InputMessage(RequestModel):
    role: Literal["user", "assistant", "system"]
    content: BlockContent


class AnthropicTool(RequestModel):
    """A tool; the model is not offered those with a `type` of Anthropic's."""

    name: str | None = None
    type: str | None = None
    description: str | None = None
    input_schema: JsonObject | None = None
    strict: bool | None = None


class ThinkingOptions(RequestModel):
    """Whether the reply shows reasoning; with `disabled` there is none."""

    type: str
    budget_tokens: ReasoningTokenLimit | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputConfig(RequestModel):
    effort: EffortName | None = None
    format: JsonObject | None = None


class CountTokensRequest(RequestBody, ContinuationFields):
    """The fields that determine the prompt: the body of `…/count_tokens`."""

    api: ClassVar[str] = MESSAGES

    model: str | None = None
    messages: Annotated[FailFastList[InputMessage], Field(min_length=1)]
    system: BlockContent | None = None
    tools: FailFastList[AnthropicTool] | None = None
    tool_choice: JsonObject | None = None
    thinking: ThinkingOptions | None = None
    output_config: OutputConfig | None = None
    max_reasoning_tokens: ReasoningTokenLimit | None = None


class MessageFields(CountTokensRequest, StreamFields):
    """The fields of a message besides those of its prompt."""

    stop_sequences: FailFastList[str] | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: Probability | None = None
    seed: Seed | None = None
    metadata: JsonObject | None = None
    service_tier: str | None = None


class MessagesRequest(MessageFields):
    """The body of `/v1/messages`."""

    max_tokens: TokenLimit


class RenderMessageRequest(MessageFields):
    """The body of `/v1/messages/render`."""

    max_tokens: TokenLimit | None = None


class ThinkingBlock(ReplyModel):
    type: Literal["thinking"] = "thinking"
    thinking: str
    signature: str


class TextBlock(ReplyModel):
    type: Literal["text"] = "text"
    text: str
    citations: list[JsonObject] = Field(default_factory=list)


class DirectCaller(ReplyModel):
    type: Literal["direct"] = "direct"


class ToolUseBlock(ReplyModel):
    type: Literal["tool_use"] = "tool_use"
    id: str
    name: str
    input: JsonObject
    caller: DirectCaller = Field(default_factory=DirectCaller)


ContentBlock = Annotated[
    ThinkingBlock | TextBlock | ToolUseBlock, Field(discriminator="type")
]


class ThinkingTokensDetails(ReplyModel):
    thinking_tokens: int


class CacheCreation(ReplyModel):
    """Tokens written to a paid cache: always zero here."""

    ephemeral_5m_input_tokens: int = 0
    ephemeral_1h_input_tokens: int = 0


class MessageDeltaUsage(ReplyModel):
    """`input_tokens` were prefilled; the rest of the prompt was in the cache."""

    input_tokens: int
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: ThinkingTokensDetails
    server_tool_use: None = None


class MessagesUsage(MessageDeltaUsage):
    """The usage of a whole message, with more fields than that of a stream's end."""

    cache_creation: CacheCreation = Field(default_factory=CacheCreation)
    inference_geo: None = None
    service_tier: Literal["standard"] = "standard"


class RefusalDetails(ReplyModel):
    """Why a request was refused; Anthropic's categories do not fit a policy's own."""

    type: Literal["refusal"] = "refusal"
    category: None = None
    explanation: str


class MessagesReply(ReplyModel):
    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[ContentBlock]
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    stop_details: RefusalDetails | None = None
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
