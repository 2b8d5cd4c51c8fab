"""Responses: what is asked.

Items of the input are read by `responses/items.py`: there are many kinds, and those
of other providers are passed over.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from mlx_gptoss.api.aliases import RESPONSES
from mlx_gptoss.api.chat.wire import (
    EffortName,
    SamplingFields,
    TokenLimit,
    TokenLogprob,
)
from mlx_gptoss.api.wire import (
    ContinuationFields,
    FailFastList,
    Json,
    ReplyModel,
    RequestModel,
)

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


# Replies

ItemStatus = Literal["in_progress", "completed", "incomplete"]
ResponseStatus = Literal[
    "in_progress", "completed", "incomplete", "failed", "cancelled"
]


class ReasoningText(ReplyModel):
    type: Literal["reasoning_text"] = "reasoning_text"
    text: str


class SummaryText(ReplyModel):
    type: Literal["summary_text"] = "summary_text"
    text: str


class ReasoningItem(ReplyModel):
    """The chain of thought; `summary` has the same text where one is asked for."""

    id: str
    type: Literal["reasoning"] = "reasoning"
    status: ItemStatus
    summary: list[SummaryText]
    content: list[ReasoningText]
    encrypted_content: str | None = None

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> Json:
        """Leave out what is not sealed: by the API it is a text or not there."""
        written = write(self)
        if self.encrypted_content is None:
            del written["encrypted_content"]
        return written


class OutputText(ReplyModel):
    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Json]
    logprobs: list[TokenLogprob]


class MessageItem(ReplyModel):
    """Text for the user: before calls (`commentary`), or the answer."""

    id: str
    type: Literal["message"] = "message"
    status: ItemStatus
    role: Literal["assistant"] = "assistant"
    phase: Literal["commentary", "final_answer"]
    content: list[OutputText]


def is_none(value: object) -> bool:
    """Whether a field is left out: without a value, clients expect no field."""
    return value is None


OptionalNamespace = Annotated[str | None, Field(exclude_if=is_none)]


class FunctionCallItem(ReplyModel):
    """A call; `namespace` is that of the tool, if it has one."""

    id: str
    type: Literal["function_call"] = "function_call"
    status: ItemStatus
    call_id: str
    name: str
    namespace: OptionalNamespace = None
    arguments: str


class CustomCallItem(ReplyModel):
    id: str
    type: Literal["custom_tool_call"] = "custom_tool_call"
    status: ItemStatus
    call_id: str
    name: str
    namespace: OptionalNamespace = None
    input: str


class SearchCallItem(ReplyModel):
    """A search for tools, which the client runs; `arguments` are an object."""

    id: str
    type: Literal["tool_search_call"] = "tool_search_call"
    status: ItemStatus
    call_id: str
    execution: Literal["client"] = "client"
    arguments: Any


CallItem = FunctionCallItem | CustomCallItem | SearchCallItem
OutputItem = Annotated[
    ReasoningItem | MessageItem | FunctionCallItem | CustomCallItem | SearchCallItem,
    Field(discriminator="type"),
]


class InputTokensDetails(ReplyModel):
    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(ReplyModel):
    reasoning_tokens: int


class ResponseUsage(ReplyModel):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class IncompleteDetails(ReplyModel):
    reason: Literal["max_output_tokens"]


class ResponseError(ReplyModel):
    code: str
    message: str


class ResponseReply(ReplyModel):
    """A response, written with all its fields.

    `finish_details` is ours: what was cut short within the answer. Penalties are those
    that had an effect: none.
    """

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: ResponseStatus
    background: Literal[False] = False
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: Json
    safety_identifier: str | None
    service_tier: str
    store: bool
    temperature: float
    text: Json
    tool_choice: str | Json
    tools: list[Json]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None = None
    user: str | None
    metadata: dict[str, str]
    finish_details: list[str] = Field(default_factory=list)

    def json_text(self) -> str:
        return self.model_dump_json()


class DeletedResponse(ReplyModel):
    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class ItemList(ReplyModel):
    """A page of the items that a response was asked with."""

    object: Literal["list"] = "list"
    data: list[Json]
    first_id: str | None
    last_id: str | None
    has_more: bool


class InputTokens(ReplyModel):
    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int
