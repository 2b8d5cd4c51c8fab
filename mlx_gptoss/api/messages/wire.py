"""Anthropic's Messages: what is asked.

Content blocks are read by `messages/blocks.py`: there are many kinds.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mlx_gptoss.api.aliases import MESSAGES
from mlx_gptoss.api.chat.wire import EffortName, Probability, Seed, TokenLimit, TopK
from mlx_gptoss.api.wire import (
    ContinuationFields,
    FailFastList,
    Json,
    RequestBody,
    RequestModel,
)

BlockContent = str | FailFastList[Json]


class InputMessage(RequestModel):
    role: Literal["user", "assistant", "system"]
    content: BlockContent


class AnthropicTool(RequestModel):
    """A tool; those with a `type` of their own are others' and not offered."""

    name: str | None = None
    type: str | None = None
    description: str | None = None
    input_schema: Json | None = None
    strict: bool | None = None


class ThinkingOptions(RequestModel):
    """Whether reasoning is shown; `disabled` lets the model answer at once."""

    type: str
    budget_tokens: Annotated[int, Field(ge=0)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputConfig(RequestModel):
    effort: EffortName | None = None
    format: Json | None = None


class CountTokensRequest(RequestBody, ContinuationFields):
    """What decides the prompt: the body of `/v1/messages/count_tokens`."""

    api: ClassVar[str] = MESSAGES

    model: str | None = None
    messages: Annotated[FailFastList[InputMessage], Field(min_length=1)]
    system: BlockContent | None = None
    tools: FailFastList[AnthropicTool] | None = None
    tool_choice: Json | None = None
    thinking: ThinkingOptions | None = None
    output_config: OutputConfig | None = None
    max_reasoning_tokens: Annotated[int, Field(ge=0)] | None = None


class MessageFields(CountTokensRequest):
    """How an answer is written: the fields of a message beside those of its prompt."""

    stop_sequences: FailFastList[str] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: TopK | None = None
    min_p: Probability | None = None
    seed: Seed | None = None
    metadata: Json | None = None
    service_tier: str | None = None


class MessagesRequest(MessageFields):
    """The body of `/v1/messages`."""

    max_tokens: TokenLimit


class RenderMessageRequest(MessageFields):
    """The body of `/v1/messages/render`."""

    max_tokens: TokenLimit | None = None
