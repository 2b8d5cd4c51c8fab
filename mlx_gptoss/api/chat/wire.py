"""Chat completions: what is asked."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from mlx_gptoss.api.aliases import CHAT, NO_LIMIT
from mlx_gptoss.api.wire import (
    CompletionUsage,
    ContinuationFields,
    FailFastList,
    Json,
    ReplyModel,
    RequestBody,
    RequestModel,
)

EffortName = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
PositiveInt = Annotated[int, Field(ge=1)]
ANY_SEED = -1  # as other servers have it


def check_token_limit(value: int) -> int:
    """A number of tokens, or -1 for no limit."""
    if value == 0:
        raise PydanticCustomError("limit", "give 1 or more, or -1 for no limit")
    return value


def normalize_token_limit(value: int) -> int | None:
    return None if check_token_limit(value) == NO_LIMIT else value


def normalize_seed(seed: int) -> int | None:
    return None if seed == ANY_SEED else seed


def normalize_biases(value: Any) -> Any:
    """llama.cpp's forms of a bias: pairs in a list, and false for never."""
    pairs = value.items() if isinstance(value, dict) else value
    if not isinstance(value, dict | list):
        return value
    if not all(isinstance(one, list | tuple) and len(one) == 2 for one in pairs):
        return value
    return {
        str(token) if type(token) is int else token: -100.0 if bias is False else bias
        for token, bias in pairs
    }


# -1 is no limit, as other servers have it.
TokenLimitNumber = Annotated[int, Field(ge=-1, json_schema_extra={"not": {"const": 0}})]
TokenLimit = Annotated[TokenLimitNumber, AfterValidator(normalize_token_limit)]
RawTokenLimit = Annotated[TokenLimitNumber, AfterValidator(check_token_limit)]
TopK = Annotated[int, Field(ge=-1), AfterValidator(lambda k: max(k, 0))]  # -1 is off
Seed = Annotated[int, AfterValidator(normalize_seed)]
Biases = Annotated[dict[str, float], BeforeValidator(normalize_biases)]
Probability = Annotated[float, Field(ge=0, le=1)]


class ContentPart(RequestModel):
    """A part of a content; gpt-oss reads those that have text."""

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

    `reasoning` (or `reasoning_content`) of an assistant's message is read again by
    the model where it belongs to a call; with old answers it is left out, as the
    format has it. `function_call` is what `tool_calls` were called before.
    """

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | FailFastList[ContentPart] | None = None
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
    parameters: Json | None = None
    strict: bool | None = None


class ChatTool(RequestModel):
    """A tool; of types other than `function` nothing is offered to the model."""

    type: str
    function: ChatFunction | None = None


class StreamOptions(RequestModel):
    include_usage: bool | None = None


class ChatReasoningOptions(RequestModel):
    """How reasoning goes, and whether it is shown."""

    effort: EffortName | None = None
    exclude: bool | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None


class SamplingFields(RequestBody):
    """How tokens are chosen: the fields that all routes share."""

    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: TopK | None = None
    min_p: Probability | None = None
    seed: Seed | None = None
    logit_bias: Biases | None = None
    stop: str | FailFastList[str] | None = None


class ChatRequest(SamplingFields, ContinuationFields):
    """The body of `/v1/chat/completions` and `/v1/chat/render`."""

    api: ClassVar[str] = CHAT

    model: str | None = None
    messages: Annotated[FailFastList[ChatMessage], Field(min_length=1)]
    tools: FailFastList[ChatTool] | None = None
    tool_choice: str | Json | None = None
    parallel_tool_calls: bool | None = None
    response_format: Json | None = None
    reasoning_effort: EffortName | None = None
    reasoning: ChatReasoningOptions | None = None
    include_reasoning: bool | None = None
    reasoning_format: (
        Literal["reasoning", "reasoning_content", "both", "hidden"] | None
    ) = None
    max_reasoning_tokens: Annotated[int, Field(ge=0)] | None = None
    max_completion_tokens: TokenLimit | None = None
    max_tokens: TokenLimit | None = None
    n: PositiveInt | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def plain_messages(self) -> list[dict[str, Any]]:
        """The messages as plain values."""
        return [one.model_dump(exclude_none=True) for one in self.messages]


# Replies

FinishReason = Literal["stop", "length", "tool_calls"]


class TopLogprob(ReplyModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(ReplyModel):
    """Of the tokens of the content; those of reasoning and calls are left out."""

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
    refusal: None = None
    annotations: list[Json]
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ChatToolCall] | None = None


class ChatChoice(ReplyModel):
    """An answer; `finish_details` say what was cut: `reasoning_budget`, loops."""

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
    system_fingerprint: str | None = None


class RenderedPrompt(ReplyModel):
    """The exact prompt of a request: what the model would read."""

    prompt: str
    token_ids: list[int]
    prompt_tokens: int
