"""Base classes and shared types of requests and replies.

Requests keep unknown fields, so that they can be named as ignored; values of a wrong
type are refused, not converted. Replies are written with the fields that were set, and
have no others. Errors do not repeat values, because errors may be logged.
"""

from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    model_validator,
)

from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.api.normalize import has_request, normalize_fields
from mlx_gptoss.engine.prompt_progress import PromptProgress

CHUNK_CHARACTERS = 2**14  # replaced at a time: a few milliseconds
T = TypeVar("T")
JsonObject = dict[str, Any]  # the type of a field, or an object to fill
StreamEvent = JsonObject  # an event of a stream, before it is written as JSON
# The first wrong entry is enough to refuse a list.
FailFastList = Annotated[list[T], Field(fail_fast=True)]


class RequestModel(BaseModel):
    """A request, or a part of one."""

    model_config = ConfigDict(extra="allow", strict=True, hide_input_in_errors=True)

    @model_validator(mode="after")
    def _yield_to_other_threads(self) -> Self:
        """Run Python code between many parts, so that threads can switch there."""
        return self

    @property
    def ignored_fields(self) -> list[str]:
        """The unknown fields, except those whose value asks for nothing."""
        extra = self.model_extra or {}
        return [name for name, value in extra.items() if has_request(name, value)]


class RequestBody(RequestModel):
    """A whole request, in the fields of its API or of other servers.

    Lone surrogates in its strings become U+FFFD: JSON can encode them, UTF-8 cannot.
    """

    api: ClassVar[str]
    _overruled: list[str] = PrivateAttr(default_factory=list)

    @model_validator(mode="wrap")
    @classmethod
    def _normalize(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            value = replace_lone_surrogates(value)
        except RecursionError:
            raise bad_request("the body is nested too deeply") from None
        if not isinstance(value, dict):
            return handler(value)
        normalized = normalize_fields(value, cls.api, cls.model_fields)
        body = handler(normalized.body)
        body._overruled = normalized.ignored
        return body

    @property
    def ignored_fields(self) -> list[str]:
        """The fields without effect: overruled, unknown, or nested in a known one."""
        parts = ((name, getattr(self, name)) for name in type(self).model_fields)
        nested = [
            f"{name}.{field}"
            for name, part in parts
            if isinstance(part, RequestModel)
            for field in part.ignored_fields
        ]
        return [*self._overruled, *super().ignored_fields, *nested]


class ContinuationFields(RequestModel):
    """vLLM's fields for continuing an assistant message at the end.

    It is continued unless `continue_final_message` is false or `add_generation_prompt`
    is true.
    """

    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None


class StreamFields(RequestModel):
    """Whether the reply is a stream.

    With llama.cpp's `return_progress`, a stream also says how its prompt is read.
    """

    stream: bool | None = None
    return_progress: bool | None = None


def wants_progress(request: RequestModel) -> bool:
    """Whether the reply to a request says how its prompt is read."""
    if not isinstance(request, StreamFields):
        return False
    return bool(request.stream and request.return_progress)


class ReplyModel(BaseModel):
    """A reply, or a part of one."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    def json_text(self) -> str:
        return self.model_dump_json(exclude_unset=True)


class RenderedPrompt(ReplyModel):
    """The exact prompt of a request, as the model would get it."""

    prompt: str
    token_ids: list[int]
    prompt_tokens: int


class TopLogprob(ReplyModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class PromptTokensDetails(ReplyModel):
    cached_tokens: int


class CompletionTokensDetails(ReplyModel):
    reasoning_tokens: int


class CompletionUsage(ReplyModel):
    """Tokens of a request, as chat completions and completions count them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class StreamedProgress(ReplyModel):
    """How much of a prompt is read, in llama.cpp's form: `prompt_progress`.

    Of `total` tokens, `processed` are done, of which `cache` were in the prompt cache;
    the others took `time_ms` milliseconds.
    """

    total: int
    cache: int
    processed: int
    time_ms: int

    @classmethod
    def of(cls, progress: PromptProgress) -> Self:
        return cls(
            total=progress.total,
            cache=progress.cached,
            processed=progress.processed,
            time_ms=round(progress.seconds * 1000),
        )


class ErrorObject(ReplyModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(ReplyModel):
    """OpenAI's form of an error."""

    error: ErrorObject


def replace_lone_surrogates(value: Any) -> Any:
    """Return a JSON value whose strings can all be encoded as UTF-8."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return _replace_in_text(value)
        return value
    if isinstance(value, list):
        return [replace_lone_surrogates(entry) for entry in value]
    if isinstance(value, dict):
        return {
            replace_lone_surrogates(key): replace_lone_surrogates(entry)
            for key, entry in value.items()
        }
    return value


def _replace_in_text(text: str) -> str:
    """Replace lone surrogates by U+FFFD, in chunks, so that threads can switch.

    Complete pairs were joined by the JSON decoder, so any position is a safe cut.
    """
    starts = range(0, len(text), CHUNK_CHARACTERS)
    chunks = (text[start : start + CHUNK_CHARACTERS] for start in starts)
    return "".join(
        chunk.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        for chunk in chunks
    )
