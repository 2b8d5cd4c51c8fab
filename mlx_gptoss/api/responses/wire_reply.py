"""Responses: what is answered. The events of a stream carry these objects."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from mlx_gptoss.api.chat.wire_reply import TokenLogprob
from mlx_gptoss.api.wire import Json, ReplyModel

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
