"""Wire types of OpenAI's chat completions."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from mlx_gptoss.api.aliases import CHAT
from mlx_gptoss.api.efforts import EffortName
from mlx_gptoss.api.sampling_fields import (
    PositiveInt,
    ReasoningTokenLimit,
    SamplingFields,
    StreamOptions,
    TokenLimit,
    TopLogprobs,
)
from mlx_gptoss.api.wire import (
    CompletionUsage,
    ContinuationFields,
    FailFastList,
    JsonObject,
    ReplyModel,
    RequestModel,
    StreamedProgress,
    StreamFields,
    TokenLogprob,
)

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class ChatContentPart(RequestModel):
    """A part of a message; the model reads those that have text."""

    type: str
    text: str | None = None


class ChatInputFunctionCall(RequestModel):
    name: str
    arguments: str = ""


class ChatInputToolCall(RequestModel):
    id: str | None = None
    type: str = "function"
    function: ChatInputFunctionCall


class ChatMessage(RequestModel):
    """A message of the conversation.

    `reasoning` (or `reasoning_content`) of an assistant message goes back to the model
    if it belongs to a call, and is dropped with old answers, as Harmony has it.
    `function_call` is the older name of `tool_calls`.
    """

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | FailFastList[ChatContentPart] | None = None
    name: str | None = None
    tool_calls: FailFastList[ChatInputToolCall] | None = None
    tool_call_id: str | None = None
    function_call: ChatInputFunctionCall | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None


class ChatFunction(RequestModel):
    name: str
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class ChatTool(RequestModel):
    """A tool; the model is offered those of type `function`."""

    type: str
    function: ChatFunction | None = None


class ChatReasoningOptions(RequestModel):
    """How much the model reasons, and whether the reply shows it."""

    effort: EffortName | None = None
    exclude: bool | None = None
    max_tokens: ReasoningTokenLimit | None = None


class ChatRequest(SamplingFields, StreamFields, ContinuationFields):
    """The body of `/v1/chat/completions` and `/v1/chat/render`."""

    api: ClassVar[str] = CHAT

    model: str | None = None
    messages: Annotated[FailFastList[ChatMessage], Field(min_length=1)]
    tools: FailFastList[ChatTool] | None = None
    tool_choice: str | JsonObject | None = None
    parallel_tool_calls: bool | None = None
    response_format: JsonObject | None = None
    reasoning_effort: EffortName | None = None
    reasoning: ChatReasoningOptions | None = None
    include_reasoning: bool | None = None
    reasoning_format: (
        Literal["reasoning", "reasoning_content", "both", "hidden"] | None
    ) = None
    max_reasoning_tokens: ReasoningTokenLimit | None = None
    max_completion_tokens: TokenLimit | None = None
    max_tokens: TokenLimit | None = None
    n: PositiveInt | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    prompt_logprobs: TopLogprobs | None = None
    stream_options: StreamOptions | None = None

    @property
    def plain_messages(self) -> list[dict[str, Any]]:
        """The messages as plain JSON values."""
        return [message.model_dump(exclude_none=True) for message in self.messages]


class ChatLogprobs(ReplyModel):
    """Log-probabilities of the content; reasoning and calls have none."""

    content: list[TokenLogprob]
    refusal: None = None


class ChatFunctionCall(ReplyModel):
    name: str
    arguments: str


class ChatToolCall(ReplyModel):
    id: str
    type: Literal["function"]
    function: ChatFunctionCall


class ChatReplyMessage(ReplyModel):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None = None
    annotations: list[JsonObject]
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ChatToolCall] | None = None


class ChatChoice(ReplyModel):
    """An answer; `finish_details` names what was cut: `reasoning_budget`, loops."""

    index: int
    message: ChatReplyMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    finish_details: list[str] | None = None


class ChatCompletion(ReplyModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: CompletionUsage
    prompt_logprobs: list[dict[str, JsonObject] | None] | None = None
    system_fingerprint: str | None = None


class ChatFunctionDelta(ReplyModel):
    name: str | None = None
    arguments: str


class ChatToolCallDelta(ReplyModel):
    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: ChatFunctionDelta


class ChatDelta(ReplyModel):
    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ChatToolCallDelta] | None = None


class ChatChunkChoice(ReplyModel):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None
    finish_details: list[str] | None = None


class ChatCompletionChunk(ReplyModel):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: CompletionUsage | None = None
    prompt_progress: StreamedProgress | None = None
    system_fingerprint: str | None = None
