"""Wire types of raw completions."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mlx_gptoss.api.aliases import COMPLETIONS
from mlx_gptoss.api.sampling_fields import (
    PositiveInt,
    RawTokenLimit,
    SamplingFields,
    StreamOptions,
    TopLogprobs,
)
from mlx_gptoss.api.wire import (
    CompletionUsage,
    FailFastList,
    JsonObject,
    ReplyModel,
    StreamedProgress,
    StreamFields,
)

TokenId = Annotated[int, Field(ge=0, lt=2**31)]


class CompletionRequest(SamplingFields, StreamFields):
    """The body of `/v1/completions`: a prompt to continue, without a template.

    A `prompt` is text, token ids, or a list of either. With `parse_special`, names
    of control tokens in text, such as `<|start|>`, become those tokens. The reply has
    them as text if `skip_special_tokens` is false. `max_tokens` 0 only reads the
    prompt. `prompt_logprobs` is vLLM's field: a number of alternatives for each of its
    tokens.
    """

    api: ClassVar[str] = COMPLETIONS

    model: str | None = None
    prompt: (
        str
        | FailFastList[str]
        | FailFastList[TokenId]
        | FailFastList[FailFastList[TokenId]]
    )
    parse_special: bool | None = None
    skip_special_tokens: bool | None = None
    suffix: str | None = None
    echo: bool | None = None
    best_of: PositiveInt | None = None
    n: PositiveInt | None = None
    max_tokens: RawTokenLimit | None = None
    logprobs: TopLogprobs | None = None
    prompt_logprobs: TopLogprobs | None = None
    stream_options: StreamOptions | None = None


class CompletionLogprobs(ReplyModel):
    """Parallel lists with one entry per token.

    A token that is no whole character is `bytes:` and its bytes, such as `\\xe2`.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(ReplyModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length", "content_filter"] | None
    prompt_logprobs: list[dict[str, JsonObject] | None] | None = None


class CompletionReply(ReplyModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage | None = None
    prompt_progress: StreamedProgress | None = None
    system_fingerprint: str | None = None
