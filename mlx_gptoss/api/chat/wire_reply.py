"""Chat completions: what is answered, whole and in chunks."""

from typing import Literal

from mlx_gptoss.api.wire import CompletionUsage, Json, ReplyModel

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
