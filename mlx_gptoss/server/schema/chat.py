"""Chat completions: what is asked."""

from typing import Annotated, Any, Literal

from pydantic import Field

from mlx_gptoss.server.schema.base import Body, Continuing, Json, Request

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
Positive = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, le=1)]


class Part(Request):
    """A part of a content; gpt-oss reads those that have text."""

    type: str
    text: str | None = None


class FunctionCall(Request):
    name: str
    arguments: str = ""


class CalledTool(Request):
    id: str | None = None
    type: str = "function"
    function: FunctionCall


class ChatMessage(Request):
    """A message of the conversation.

    `reasoning` (or `reasoning_content`) of an assistant's message is read again by
    the model where it belongs to a call; with old answers it is left out, as the
    format has it. `function_call` is what `tool_calls` were called before.
    """

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[CalledTool] | None = None
    tool_call_id: str | None = None
    function_call: FunctionCall | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None


class FunctionTool(Request):
    name: str
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None


class ChatTool(Request):
    """A tool; of types other than `function` nothing is offered to the model."""

    type: str
    function: FunctionTool | None = None


class StreamOptions(Request):
    include_usage: bool | None = None


class ReasoningOptions(Request):
    """How reasoning goes, and whether it is shown."""

    effort: Effort | None = None
    exclude: bool | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None


class SamplingFields(Body):
    """How tokens are chosen: the fields that all routes share."""

    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Probability | None = None
    seed: int | None = None
    logit_bias: dict[str, float] | None = None
    stop: str | list[str] | None = None


class ChatRequest(SamplingFields, Continuing):
    """The body of `/v1/chat/completions` and `/v1/chat/render`."""

    model: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    tools: list[ChatTool] | None = None
    tool_choice: str | Json | None = None
    parallel_tool_calls: bool | None = None
    response_format: Json | None = None
    reasoning_effort: Effort | None = None
    reasoning: ReasoningOptions | None = None
    include_reasoning: bool | None = None
    reasoning_format: (
        Literal["reasoning", "reasoning_content", "both", "hidden"] | None
    ) = None
    max_reasoning_tokens: Annotated[int, Field(ge=0)] | None = None
    max_completion_tokens: Positive | None = None
    max_tokens: Positive | None = None
    n: Positive | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def plain_messages(self) -> list[dict[str, Any]]:
        """The messages as plain values."""
        return [one.model_dump(exclude_none=True) for one in self.messages]
