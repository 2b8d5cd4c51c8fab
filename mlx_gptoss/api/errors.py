"""Errors as clients see them: HTTP status, type, code, and what to do.

Errors raised on purpose keep their message, unless it may name files of this machine.
Anything else is an internal error without details; those go to the log.
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
MAX_MESSAGE_CHARACTERS = 2000  # a message may repeat text of the client
INTERNAL_MESSAGE = "internal error: the server's log says more"
OLLAMA_PATHS = "/api/"
LM_STUDIO_PATHS = (
    "/api/v0/",
    "/api/v1/",
)  # beside Ollama's, with errors of OpenAI's form
UNAVAILABLE_MESSAGE = "the model cannot be used: the server's log says why"


@dataclass
class ApiError(Exception):
    """An error of OpenAI's API; `param` is the field at fault.

    `anthropic_message` and `ollama_message` are the wording of those APIs, if clients
    depend on it. Texts that are far too long are abbreviated.
    """

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    type: str = INVALID_REQUEST
    headers: Mapping[str, str] = field(default_factory=dict)
    anthropic_message: str | None = None
    ollama_message: str | None = None

    def __post_init__(self) -> None:
        self.message = abbreviate(self.message)
        self.param = None if self.param is None else abbreviate(self.param)

    def __str__(self) -> str:
        return self.message

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's form of the error."""
        error = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}


def abbreviate(text: str) -> str:
    """Omit the middle of a text that is too long."""
    if len(text) <= MAX_MESSAGE_CHARACTERS:
        return text
    half = MAX_MESSAGE_CHARACTERS // 2
    return f"{text[:half]} … {text[-half:]}"


def validation_error(problems: Any) -> ApiError:
    """Describe the first validation error and its location, without the value."""
    problem = problems[0]
    place = [one for one in problem["loc"] if one != "body"]
    if problem["type"] == "json_invalid":
        return ApiError(400, "the body is not JSON", "invalid_json")
    if not place:
        return ApiError(
            400, "the body must be a JSON object, sent as `application/json`"
        )
    name = "".join(f"[{at}]" if isinstance(at, int) else f".{at}" for at in place)
    name = name.lstrip(".")
    return ApiError(400, f"`{name}`: {problem['msg']}", "invalid_type", name)


def bad_request(message: str, *, param: str | None = None) -> ApiError:
    return ApiError(400, message, "invalid_value", param)


def context_exceeded(tokens: int, context: int, *, at_least: bool = False) -> ApiError:
    """Return the error for a prompt that fills the context.

    Clients compact the conversation when they see this code and these words. At least
    one token is reserved for the answer. With `at_least`, counting stopped at `tokens`.
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
        ollama_message=abbreviate(
            f"model '{model}' not found: this server has {names}"
        ),
    )


def busy(message: str, retry_after: float) -> ApiError:
    """Return the error for a full queue; `retry_after` is in seconds."""
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
    """Return the error for a failed store; its reason names no file."""
    status, code = (507, "insufficient_storage") if error.full else (503, "storage")
    message = f"what this server stores cannot be changed or read now: {error.reason}"
    return ApiError(status, message, code, None, "server_error")


def as_api_error(error: BaseException) -> ApiError:
    """Return the error for the client; details it must not see go to the log."""
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
    if isinstance(error, GptOssError):  # its message may name files
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
    """Return Anthropic's form of an error."""
    default = INVALID_REQUEST if error.status < 500 else "api_error"
    error_type = ANTHROPIC_TYPES.get(error.status, default)
    message = error.anthropic_message or error.message
    fields = {"type": error_type, "message": message}
    return {"type": "error", "error": fields, "request_id": None}


def ollama_body(error: ApiError) -> dict[str, Any]:
    """Return Ollama's form of an error."""
    return {"error": error.ollama_message or error.message}


def error_body(path: str, error: ApiError) -> dict[str, Any]:
    """Return an error in the form that clients of a route expect."""
    if path.startswith("/v1/messages"):
        return anthropic_body(error)
    if path.startswith(OLLAMA_PATHS) and not path.startswith(LM_STUDIO_PATHS):
        return ollama_body(error)
    return error.body
