"""Wire types of OpenAI's Responses.

Input items are plain JSON here and read by `items.py`: there are many types, and those
of other providers are ignored.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from mlx_gptoss.api.aliases import RESPONSES
from mlx_gptoss.api.efforts import EffortName
from mlx_gptoss.api.sampling_fields import (
    ReasoningTokenLimit,
    SamplingFields,
    TokenLimit,
    TopLogprobs,
)
from mlx_gptoss.api.wire import (
    ContinuationFields,
    FailFastList,
    JsonObject,
    ReplyModel,
    RequestModel,
    StreamFields,
    TokenLogprob,
)

MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]
ItemStatus = Literal["in_progress", "completed", "incomplete"]
ResponseStatus = Literal[
    "in_progress", "completed", "incomplete", "failed", "cancelled"
]


class ResponsesTextOptions(RequestModel):
    """The format of the answer: `text`, `json_object` or `json_schema`."""

    format: JsonObject | None = None
    verbosity: str | None = None


class ResponsesReasoningOptions(RequestModel):
    """How much the model reasons; `max_tokens` is an extension, a limit of it."""

    effort: EffortName | None = None
    summary: str | None = None
    generate_summary: str | None = None
    max_tokens: ReasoningTokenLimit | None = None


class ResponsesTool(RequestModel):
    """A tool: a `function` has `parameters`, a `custom` tool may have a `format`.

    A `namespace` has `tools` of these two types; a `tool_search` with the `execution`
    client finds more of them. The model is not offered tools of other types.
    """

    type: str
    name: str | None = None
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None
    format: JsonObject | None = None
    tools: Any = None
    execution: Any = None


class ContextManagement(RequestModel):
    """What to do when a conversation is long: with `compaction`, summarize it.

    That is done from `compact_threshold` prompt tokens on.
    """

    type: str
    compact_threshold: Annotated[int, Field(ge=1)] | None = None


class ResponsesInput(SamplingFields, ContinuationFields):
    """The fields that determine the prompt of a response."""

    api: ClassVar[str] = RESPONSES

    model: str | None = None
    input: str | FailFastList[JsonObject] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: FailFastList[ResponsesTool] | None = None
    tool_choice: str | JsonObject | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ResponsesReasoningOptions | None = None
    text: ResponsesTextOptions | None = None
    truncation: Literal["auto", "disabled"] | None = None
    conversation: str | JsonObject | None = None
    prompt: JsonObject | None = None
    max_output_tokens: TokenLimit | None = None


class ResponsesRequest(ResponsesInput, StreamFields):
    """The body of `/v1/responses`."""

    include: FailFastList[str] | None = None
    context_management: FailFastList[ContextManagement] | None = None
    store: bool | None = None
    background: bool | None = None
    max_tool_calls: int | None = None
    top_logprobs: TopLogprobs | None = None
    metadata: (
        Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None
    ) = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    user: str | None = None
    stream_options: JsonObject | None = None


class ReasoningText(ReplyModel):
    type: Literal["reasoning_text"] = "reasoning_text"
    text: str


class SummaryText(ReplyModel):
    type: Literal["summary_text"] = "summary_text"
    text: str


class ReasoningItem(ReplyModel):
    """The chain of thought; `summary` has the same text if one is requested."""

    id: str
    type: Literal["reasoning"] = "reasoning"
    status: ItemStatus
    summary: list[SummaryText]
    content: list[ReasoningText]
    encrypted_content: str | None = None

    @model_serializer(mode="wrap")
    def _omit_unsealed(self, serialize: SerializerFunctionWrapHandler) -> JsonObject:
        """Omit `encrypted_content` if there is none: the API has no null there."""
        fields = serialize(self)
        if self.encrypted_content is None:
            del fields["encrypted_content"]
        return fields


class OutputText(ReplyModel):
    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[JsonObject]
    logprobs: list[TokenLogprob]


class OutputRefusal(ReplyModel):
    type: Literal["refusal"] = "refusal"
    refusal: str


class MessageItem(ReplyModel):
    """Text for the user: a preamble to calls (`commentary`), or the answer."""

    id: str
    type: Literal["message"] = "message"
    status: ItemStatus
    role: Literal["assistant"] = "assistant"
    phase: Literal["commentary", "final_answer"]
    content: list[OutputText | OutputRefusal]


def is_none(value: object) -> bool:
    """Whether to omit a field that has no value."""
    return value is None


OptionalNamespace = Annotated[str | None, Field(exclude_if=is_none)]


class FunctionCallItem(ReplyModel):
    """A call of a function, with the namespace of the tool if it has one."""

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
    """A search for tools, run by the client; `arguments` is an object."""

    id: str
    type: Literal["tool_search_call"] = "tool_search_call"
    status: ItemStatus
    call_id: str
    execution: Literal["client"] = "client"
    arguments: Any


class CompactionItem(ReplyModel):
    """A summary of the conversation so far: see `compaction.py`."""

    id: str
    type: Literal["compaction"] = "compaction"
    encrypted_content: str


CallItem = FunctionCallItem | CustomCallItem | SearchCallItem
OutputItem = Annotated[
    ReasoningItem
    | MessageItem
    | FunctionCallItem
    | CustomCallItem
    | SearchCallItem
    | CompactionItem,
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
    reason: Literal["max_output_tokens", "content_filter"]


class ResponseError(ReplyModel):
    code: str
    message: str


class ResponseReply(ReplyModel):
    """A response, written with all its fields.

    `finish_details` is an extension: the parts of the answer that were cut short.
    Penalties are reported as applied: zero.
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
    reasoning: JsonObject
    safety_identifier: str | None
    service_tier: str
    store: bool
    temperature: float
    text: JsonObject
    tool_choice: str | JsonObject
    tools: list[JsonObject]
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
    """A page of the input items of a response."""

    object: Literal["list"] = "list"
    data: list[JsonObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class InputTokens(ReplyModel):
    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int
