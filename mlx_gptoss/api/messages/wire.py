"""Anthropic's Messages: what is asked.

Content blocks are read by `messages/blocks.py`: there are many kinds.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mlx_gptoss.api.aliases import MESSAGES
from mlx_gptoss.api.chat.wire import Effort, Probability, Seed, TokenLimit, TopK
from mlx_gptoss.api.wire import Body, Continuing, Json, Many, Request

Blocks = str | Many[Json]


class InputMessage(Request):
    role: Literal["user", "assistant", "system"]
    content: Blocks


class AnthropicTool(Request):
    """A tool; those with a `type` of their own are others' and not offered."""

    name: str | None = None
    type: str | None = None
    description: str | None = None
    input_schema: Json | None = None
    strict: bool | None = None


class ThinkingOptions(Request):
    """Whether reasoning is shown; `disabled` lets the model answer at once."""

    type: str
    budget_tokens: Annotated[int, Field(ge=0)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class OutputOptions(Request):
    effort: Effort | None = None
    format: Json | None = None


class CountRequest(Body, Continuing):
    """What decides the prompt: the body of `/v1/messages/count_tokens`."""

    api: ClassVar[str] = MESSAGES

    model: str | None = None
    messages: Annotated[Many[InputMessage], Field(min_length=1)]
    system: Blocks | None = None
    tools: Many[AnthropicTool] | None = None
    tool_choice: Json | None = None
    thinking: ThinkingOptions | None = None
    output_config: OutputOptions | None = None
    max_reasoning_tokens: Annotated[int, Field(ge=0)] | None = None


class AnswerFields(CountRequest):
    """How an answer is written: the fields of a message beside those of its prompt."""

    stop_sequences: Many[str] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: TopK | None = None
    min_p: Probability | None = None
    seed: Seed | None = None
    metadata: Json | None = None
    service_tier: str | None = None


class MessagesRequest(AnswerFields):
    """The body of `/v1/messages`."""

    max_tokens: TokenLimit


class RenderRequest(AnswerFields):
    """The body of `/v1/messages/render`."""

    max_tokens: TokenLimit | None = None
