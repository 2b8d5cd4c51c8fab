"""Wire types of Ollama's requests, and of the replies to chat and generate.

Values that Go reads leniently are read so here: a whole number may be `20.0`, a role
`User`. Options and fields that ask for what gpt-oss or this server cannot do are kept,
to be refused or named as ignored.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from mlx_gptoss.api.chat.wire import ChatTool
from mlx_gptoss.api.efforts import EffortName
from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.api.normalize import has_request
from mlx_gptoss.api.ollama.durations import KeepAlive
from mlx_gptoss.api.sampling_fields import (
    Probability,
    Temperature,
    TopLogprobs,
)
from mlx_gptoss.api.wire import (
    FailFastList,
    JsonObject,
    ReplyModel,
    RequestModel,
    StreamedProgress,
    StreamFields,
    TokenLogprob,
    replace_lone_surrogates,
)

NO_LIMIT = -1
LEAST_TOP_P = 1e-9  # for 0, with which Ollama takes the most likely token


def read_whole_number(value: Any) -> Any:
    """Return 20 for 20.0, as JSON of other languages has whole numbers."""
    whole = isinstance(value, float) and value.is_integer()
    return int(value) if whole else value


def lower_case(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


WholeNumber = Annotated[int, BeforeValidator(read_whole_number)]
OllamaRole = Annotated[
    Literal["system", "user", "assistant", "tool"], BeforeValidator(lower_case)
]


class OllamaOptions(RequestModel):
    """The options that have an effect; others are named as ignored.

    `num_predict` is -1, -2 or 0 for no limit.
    """

    temperature: Temperature | None = None
    top_p: Annotated[
        Probability | None,
        AfterValidator(lambda p: None if p is None else max(p, LEAST_TOP_P)),
    ] = None
    top_k: Annotated[WholeNumber, Field(ge=-1)] | None = None
    min_p: Probability | None = None
    seed: WholeNumber | None = None
    num_predict: Annotated[WholeNumber, Field(ge=-2)] | None = None
    stop: str | FailFastList[str] | None = None

    @property
    def given(self) -> JsonObject:
        """The options with an effect that are given, as aliases of other APIs."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        if values["num_predict"] == 0:
            values["num_predict"] = NO_LIMIT
        return {name: value for name, value in values.items() if value is not None}


class OllamaBody(RequestModel):
    """A request body. Lone surrogates become U+FFFD: UTF-8 cannot have them."""

    @model_validator(mode="before")
    @classmethod
    def _clean(cls, value: Any) -> Any:
        try:
            return replace_lone_surrogates(value)
        except RecursionError:
            raise bad_request("the body is nested too deeply") from None


class OllamaModelBody(OllamaBody):
    """The body of requests about one model; `name` is the older field."""

    model: str | None = None
    name: str | None = None

    @property
    def named(self) -> str | None:
        """The name of the model."""
        return self.model or self.name


class OllamaGenerationBody(OllamaModelBody, StreamFields):
    """What chat and generate have in common."""

    format: str | JsonObject | None = None
    keep_alive: KeepAlive = None
    think: bool | EffortName | None = None
    options: OllamaOptions | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    truncate: bool | None = None
    shift: bool | None = None

    @property
    def streams(self) -> bool:
        """Whether the reply is a stream, as it is unless told otherwise."""
        return self.stream is not False

    @property
    def ignored_fields(self) -> list[str]:
        """The fields without effect, those of the options included."""
        extra = (self.options.model_extra if self.options else None) or {}
        paths = {f"options.{name}": value for name, value in extra.items()}
        inner = [path for path, value in paths.items() if has_request(path, value)]
        return [*super().ignored_fields, *inner]


class OllamaCalledFunction(RequestModel):
    name: str
    arguments: JsonObject | str | None = None


class OllamaInputCall(RequestModel):
    id: str | None = None
    function: OllamaCalledFunction


class OllamaMessage(RequestModel):
    """A message of the conversation; a result names its tool or the id of the call."""

    role: OllamaRole
    content: str | None = None
    thinking: str | None = None
    images: list[Any] | None = None
    tool_calls: FailFastList[OllamaInputCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class OllamaTool(ChatTool):
    type: str = "function"


class OllamaChatRequest(OllamaGenerationBody):
    """The body of `/api/chat`; without messages, it loads or unloads the model."""

    messages: FailFastList[OllamaMessage] | None = None
    tools: FailFastList[OllamaTool] | None = None


class OllamaGenerateRequest(OllamaGenerationBody):
    """The body of `/api/generate`; without a prompt, it loads or unloads the model.

    With `raw`, the prompt is continued as it is; names such as `<|start|>` in it are
    control tokens. `context` is that of an earlier reply, which goes on.
    """

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    context: FailFastList[Annotated[WholeNumber, Field(ge=0, lt=2**31)]] | None = None
    suffix: str | None = None
    template: str | None = None
    images: list[Any] | None = None


class OllamaFunctionCall(ReplyModel):
    index: int
    name: str
    arguments: JsonObject


class OllamaToolCall(ReplyModel):
    id: str
    function: OllamaFunctionCall


class OllamaReplyMessage(ReplyModel):
    role: Literal["assistant"]
    content: str
    thinking: str | None = None
    tool_calls: list[OllamaToolCall] | None = None


class OllamaReply(ReplyModel):
    """A reply, or a line of a stream. Durations are in nanoseconds.

    The last line has the counts: of the whole prompt, what was cached included, and of
    all tokens that were generated.
    """

    model: str
    created_at: str
    done: bool
    done_reason: (
        Literal["stop", "length", "load", "unload", "content_filter"] | None
    ) = None
    total_duration: int | None = None
    load_duration: int | None = None
    prompt_eval_count: int | None = None
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None
    logprobs: list[TokenLogprob] | None = None
    prompt_progress: StreamedProgress | None = None


class OllamaChatReply(OllamaReply):
    message: OllamaReplyMessage


class OllamaGenerateReply(OllamaReply):
    response: str
    thinking: str | None = None
    context: list[int] | None = None


class OllamaErrorReply(ReplyModel):
    """Ollama's form of an error."""

    error: str
