"""What all wire types share.

Requests keep fields they do not know, to say which were passed over; values of a
wrong type are refused, not converted. Replies are written with the fields that were
set and no others. Errors do not repeat values: they may be read in a log.
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

CHUNK_CHARACTERS = (
    2**14
)  # characters that are replaced at a time: some thousandths of a second
T = TypeVar("T")
Json = dict[str, Any]
# The first entry that is wrong is enough to refuse a list.
FailFastList = Annotated[list[T], Field(fail_fast=True)]


class RequestModel(BaseModel):
    """A request, or a part of one."""

    model_config = ConfigDict(extra="allow", strict=True, hide_input_in_errors=True)

    @model_validator(mode="after")
    def _yield_to_other_threads(self) -> Self:
        """Be Python between parts without number: there threads take turns."""
        return self

    @property
    def ignored_fields(self) -> list[str]:
        """The fields that are not understood, unless they ask for nothing."""
        extra = self.model_extra or {}
        return [name for name, value in extra.items() if has_request(name, value)]


class RequestBody(RequestModel):
    """A whole request, in the words of its API or in those of other servers.

    Half a surrogate pair in any text of it becomes U+FFFD: JSON can write such halves,
    and nothing that is sent on could.
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
        found = normalize_fields(value, cls.api, cls.model_fields)
        body = handler(found.body)
        body._overruled = found.ignored
        return body

    @property
    def ignored_fields(self) -> list[str]:
        """What has no effect: overruled, not understood, or that within a field."""
        parts = ((name, getattr(self, name)) for name in type(self).model_fields)
        inner = [
            f"{name}.{one}"
            for name, part in parts
            if isinstance(part, RequestModel)
            for one in part.ignored_fields
        ]
        return [*self._overruled, *super().ignored_fields, *inner]


class ContinuationFields(RequestModel):
    """Whether an assistant's message at the end goes on, in vLLM's words.

    It does unless `continue_final_message` is false or `add_generation_prompt` true.
    """

    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None


def replace_lone_surrogates(value: Any) -> Any:
    """Return a JSON value whose texts can be written as UTF-8."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return _replace_in_text(value)
        return value
    if isinstance(value, list):
        return [replace_lone_surrogates(one) for one in value]
    if isinstance(value, dict):
        return {
            replace_lone_surrogates(key): replace_lone_surrogates(one)
            for key, one in value.items()
        }
    return value


def _replace_in_text(text: str) -> str:
    """Replace half surrogate pairs by U+FFFD; other threads go on meanwhile.

    The halves of whole pairs are one character already, so it can be cut anywhere.
    """
    pieces = (
        text[at : at + CHUNK_CHARACTERS] for at in range(0, len(text), CHUNK_CHARACTERS)
    )
    return "".join(
        one.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        for one in pieces
    )


class ReplyModel(BaseModel):
    """A reply, or a part of one."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    def json_text(self) -> str:
        return self.model_dump_json(exclude_unset=True)


class CompletionUsage(ReplyModel):
    """Tokens of a request, as chat completions and completions count them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: "PromptTokensDetails"
    completion_tokens_details: "CompletionTokensDetails"


class PromptTokensDetails(ReplyModel):
    cached_tokens: int


class CompletionTokensDetails(ReplyModel):
    reasoning_tokens: int


class ErrorObject(ReplyModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(ReplyModel):
    """OpenAI's form of an error."""

    error: ErrorObject
