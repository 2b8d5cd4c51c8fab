"""Responses: what is asked.

Items of the input are read by `responses/items.py`: there are many kinds, and those
of other providers are passed over.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from mlx_gptoss.api.aliases import RESPONSES
from mlx_gptoss.api.chat.wire import EffortName, SamplingFields, TokenLimit
from mlx_gptoss.api.wire import ContinuationFields, FailFastList, Json, RequestModel

ShortText = Annotated[str, Field(max_length=512)]


class ResponsesTextOptions(RequestModel):
    """The format of the answer: `text`, `json_object` or `json_schema`."""

    format: Json | None = None
    verbosity: str | None = None


class ResponsesReasoningOptions(RequestModel):
    """How long the model reasons; `max_tokens` is ours, a limit of it."""

    effort: EffortName | None = None
    summary: str | None = None
    generate_summary: str | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None


class ResponsesTool(RequestModel):
    """A tool: `function` has `parameters`, `custom` perhaps a `format`.

    A `namespace` has `tools` of these two; a `tool_search` with the `execution` client
    finds more of them. Of other types nothing is offered to the model.
    """

    type: str
    name: str | None = None
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None
    format: Json | None = None
    tools: Any = None
    execution: Any = None


class ResponsesInput(SamplingFields, ContinuationFields):
    """What decides the prompt of a response."""

    api: ClassVar[str] = RESPONSES

    model: str | None = None
    input: str | FailFastList[Json] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: FailFastList[ResponsesTool] | None = None
    tool_choice: str | Json | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ResponsesReasoningOptions | None = None
    text: ResponsesTextOptions | None = None
    truncation: Literal["auto", "disabled"] | None = None
    conversation: str | Json | None = None
    prompt: Json | None = None
    max_output_tokens: TokenLimit | None = None


class ResponsesRequest(ResponsesInput):
    """The body of `/v1/responses`."""

    include: FailFastList[str] | None = None
    store: bool | None = None
    stream: bool | None = None
    background: bool | None = None
    max_tool_calls: int | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], ShortText], Field(max_length=16)
        ]
        | None
    ) = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    user: str | None = None
    stream_options: Json | None = None
