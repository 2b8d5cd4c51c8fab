"""Chat completions: what is answered, whole and in chunks."""

from typing import Literal

from mlx_gptoss.api.wire import Json, Reply, TokenUsage

FinishReason = Literal["stop", "length", "tool_calls"]


class TopLogprob(Reply):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class Logprobs(Reply):
    """Of the tokens of the content; those of reasoning and calls are left out."""

    content: list[TokenLogprob]
    refusal: None = None


class CalledFunction(Reply):
    name: str
    arguments: str


class ToolCallReply(Reply):
    id: str
    type: Literal["function"]
    function: CalledFunction


class MessageReply(Reply):
    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    annotations: list[Json]
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallReply] | None = None


class Choice(Reply):
    """An answer; `finish_details` say what was cut: `reasoning_budget`, loops."""

    index: int
    message: MessageReply
    logprobs: Logprobs | None
    finish_reason: FinishReason
    finish_details: list[str] | None = None


class ChatReply(Reply):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: TokenUsage
    system_fingerprint: str | None = None


class FunctionDelta(Reply):
    name: str | None = None
    arguments: str


class ToolCallDelta(Reply):
    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class Delta(Reply):
    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChunkChoice(Reply):
    index: int
    delta: Delta
    logprobs: Logprobs | None = None
    finish_reason: FinishReason | None
    finish_details: list[str] | None = None


class Chunk(Reply):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: TokenUsage | None = None
    system_fingerprint: str | None = None


class RenderReply(Reply):
    """The exact prompt of a request: what the model would read."""

    prompt: str
    token_ids: list[int]
    prompt_tokens: int
