"""Every error as a client sees it: status, type, code and a sentence to act on.

What is raised on purpose keeps its message, unless that may name files of this
machine; anything else is an internal error without details, which the log has.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlx_gptoss.errors import (
    GptOssError,
    LongPromptError,
    MemoryBudgetError,
    NonFiniteError,
    PromptError,
    SchemaError,
    StorageError,
)

log = logging.getLogger(__name__)

INVALID_REQUEST = "invalid_request_error"
MAX_MESSAGE_CHARACTERS = (
    2000  # characters of a message, which may hold what a client wrote
)
INTERNAL_MESSAGE = "internal error: the server's log says more"
UNAVAILABLE_MESSAGE = "the model cannot be used: the server's log says why"


@dataclass
class ApiError(Exception):
    """An error with its place in OpenAI's API; `param` is the field at fault.

    `anthropics` is the message in Anthropic's words, where clients look for those.
    What is far too long to be read is shortened.
    """

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    type: str = INVALID_REQUEST
    headers: Mapping[str, str] = field(default_factory=dict)
    anthropic_message: str | None = None

    def __post_init__(self) -> None:
        self.message = abbreviate(self.message)
        self.param = None if self.param is None else abbreviate(self.param)

    def __str__(self) -> str:
        return self.message

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's form of it."""
        error = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}


def abbreviate(text: str) -> str:
    """Leave out the middle of a text that nobody would read to its end."""
    if len(text) <= MAX_MESSAGE_CHARACTERS:
        return text
    half = MAX_MESSAGE_CHARACTERS // 2
    return f"{text[:half]} … {text[-half:]}"


def bad_request(message: str, *, param: str | None = None) -> ApiError:
    return ApiError(400, message, "invalid_value", param)


def context_exceeded(tokens: int, context: int, *, at_least: bool = False) -> ApiError:
    """The prompt fills the context: clients compact by this code and these words.

    One token at least is the answer's. `at_least`: they were not counted to the end.
    """
    more, uncounted = (
        (" or more", " (at least: the rest was not counted)") if at_least else ("", "")
    )
    return ApiError(
        400,
        f"This model's maximum context length is {context} tokens. However, your "
        f"messages resulted in {tokens} tokens{more} and leave no room to answer. "
        "Please reduce the length of the messages.",
        "context_length_exceeded",
        "messages",
        anthropic_message=f"prompt is too long: {tokens} tokens > {context - 1} maximum"
        f"{uncounted}",
    )


def model_not_found(model: str, known: list[str]) -> ApiError:
    names = ", ".join(f"`{name}`" for name in known)
    return ApiError(
        404,
        f"The model `{model}` does not exist: this server has {names}",
        "model_not_found",
        "model",
    )


def busy(message: str, retry_after: float) -> ApiError:
    """There is no room now; `retry_after` is in seconds."""
    seconds = max(1, round(retry_after))
    headers = {"Retry-After": str(seconds)}
    return ApiError(
        429, message, "rate_limit_exceeded", None, "rate_limit_error", headers
    )


def draining() -> ApiError:
    headers = {"Retry-After": "5"}
    return ApiError(
        503, "the server is shutting down", "draining", None, "server_error", headers
    )


def cannot_store(error: StorageError) -> ApiError:
    """What the server keeps cannot be used; its reason names no file."""
    status, code = (507, "insufficient_storage") if error.full else (503, "storage")
    message = f"what this server stores cannot be changed or read now: {error.reason}"
    return ApiError(status, message, code, None, "server_error")


def as_api_error(error: BaseException) -> ApiError:
    """Return what the client is told; what it is not told goes to the log."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, LongPromptError):
        return context_exceeded(error.tokens, error.context, at_least=True)
    if isinstance(error, SchemaError):
        return ApiError(400, str(error), "invalid_schema")
    if isinstance(error, PromptError):
        return bad_request(str(error), param=error.where)
    if hasattr(error, "retry_after") and isinstance(error, GptOssError):
        return busy(str(error), error.retry_after)  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(error, MemoryBudgetError):
        return ApiError(507, str(error), "insufficient_memory", None, "server_error")
    if isinstance(error, NonFiniteError):
        log.error("an answer ended: %s", error)
        return ApiError(500, str(error), "model_failed", None, "server_error")
    if isinstance(error, StorageError):
        log.error("%s", error)
        return cannot_store(error)
    if isinstance(error, GptOssError):  # its words may name files
        log.error("a model cannot be used: %s", error)
        return ApiError(
            503, UNAVAILABLE_MESSAGE, "model_unavailable", None, "server_error"
        )
    log.error("a request failed", exc_info=error)
    return ApiError(500, INTERNAL_MESSAGE, "internal_error", None, "server_error")


ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def anthropic_body(error: ApiError) -> dict[str, Any]:
    """Anthropic's form of an error."""
    other = INVALID_REQUEST if error.status < 500 else "api_error"
    kind = ANTHROPIC_TYPES.get(error.status, other)
    message = error.anthropic_message or error.message
    told = {"type": kind, "message": message}
    return {"type": "error", "error": told, "request_id": None}


def error_body(path: str, error: ApiError) -> dict[str, Any]:
    """The form of an error that clients of a route expect."""
    if path.startswith("/v1/messages"):
        return anthropic_body(error)
    return error.body
