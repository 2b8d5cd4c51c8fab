"""The exception tree of this package. Imports nothing else of it.

    GptOssError
    ├── ConfigError         `config.json` is invalid or asks for something unsupported
    ├── CheckpointError     a weight file is missing, damaged or has the wrong shape
    ├── HubError            a model could not be found or downloaded
    │   └── NeedsConversionError  it must be converted first (also a CheckpointError)
    ├── MemoryBudgetError   the model does not fit; the message says what would
    ├── PromptError         the conversation or prompt cannot be rendered or run
    │   ├── SchemaError     a schema or grammar cannot be enforced
    │   └── LongPromptError it is longer than the context
    ├── ExamplesError       training examples cannot be read or rendered
    ├── BatchError          a file of requests or texts cannot be worked through
    ├── RedactionError      a text cannot be masked, or not be restored
    ├── PolicyError         a policy or its calibration cannot be read or used
    ├── BusyError           too many requests are waiting: try again later
    ├── AnswerTimeout       an answer did not end within the caller's `timeout`
    ├── AnswerFormatError   an answer does not have the format that was asked for
    ├── ModelError          the model failed during computation
    │   └── NonFiniteError  its logits are NaN or infinite: no token can be sampled
    ├── StorageError        a file cannot be written: a full disk, a missing permission
    ├── SessionError        saved chats cannot be read, or a chat cannot be saved
    ├── ToolError           a tool cannot be started or reached
    └── ConversionError     a conversion cannot start or cannot be trusted

Catch the base class to handle them all:

    try:
        runtime = load("openai/gpt-oss-20b")
    except GptOssError as error:
        print(error)
"""

TYPE_CHECKING = False  # of `typing`, which takes longer to import than all this
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


class GptOssError(Exception):
    """Base of all errors here. The message says what, where and what to do."""


class ConfigError(GptOssError):
    """`config.json` is unreadable or asks for something unsupported."""


class CheckpointError(GptOssError):
    """A weight file is missing, damaged, or does not match the config."""


class HubError(GptOssError):
    """A model id could not be resolved or downloaded."""


class NeedsConversionError(HubError, CheckpointError):
    """A model is not run as it is; the message has the command that converts it.

    `source` names it to that command if it is on this machine, else it is None.
    """

    def __init__(self, message: str, source: str | None = None) -> None:
        super().__init__(message)
        self.source = source


class MemoryBudgetError(GptOssError):
    """The model does not fit the memory budget."""


class PromptError(GptOssError):
    """A conversation, prompt or sampling request is invalid.

    `where` is a path into the input, such as `messages[2].content[0]`, if known.
    """

    def __init__(self, message: str, *, where: str | None = None) -> None:
        super().__init__(message)
        self.where = where


class SchemaError(PromptError):
    """A JSON schema, regular expression or grammar cannot be enforced."""


class LongPromptError(PromptError):
    """A prompt exceeds the context. It has at least `tokens` tokens."""

    def __init__(self, tokens: int, context: int) -> None:
        super().__init__(
            f"the prompt has at least {tokens:,} tokens and the context holds "
            f"{context:,}: shorten it, or start a new conversation"
        )
        self.tokens = tokens
        self.context = context


class ExamplesError(GptOssError):
    """Training examples cannot be used; `mistakes` names each with file and line.

    `more` says that reading stopped at the limit, so there may be further ones.
    """

    def __init__(self, mistakes: "Sequence[str]", *, more: bool = False) -> None:
        self.mistakes = tuple(mistakes)
        self.more = more
        text = "\n".join(self.mistakes)
        if len(self.mistakes) > 1:
            stopped = ", and reading stopped there" if more else ""
            text = f"{len(self.mistakes)} mistakes in the examples{stopped}:\n{text}"
        super().__init__(text)


class PolicyError(GptOssError):
    """A policy to classify by, or its calibration, cannot be read or used."""


class BatchError(GptOssError):
    """The input or output of a batch does not fit what is asked for."""


class RedactionError(GptOssError):
    """A file cannot be read to mask it, or a vault does not fit."""


class BusyError(GptOssError):
    """The queue is full; `retry_after` estimates the seconds to wait."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class AnswerTimeout(GptOssError, TimeoutError):
    """An answer did not end within `seconds`, which the caller set.

    It was ended, and the conversation keeps the text that came until then. `reply` is
    that text as a Reply (`finish_reason` cancelled) if `ask` raised this, else None.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"the answer did not end within {seconds:g} s and was stopped: raise "
            "`timeout`, or lower `max_tokens` or `effort`"
        )
        self.seconds = seconds
        self.reply: Any = None


class AnswerFormatError(GptOssError):
    """An answer does not have its `response_format`, or was cut off before its end.

    `reply` is the Reply as it is, without `parsed`.
    """

    def __init__(self, message: str, reply: "Any" = None) -> None:
        super().__init__(message)
        self.reply = reply


class ModelError(GptOssError):
    """The model failed during computation; the answers in progress are lost."""


class NonFiniteError(ModelError):
    """The model's logits are NaN or infinite; this answer cannot continue."""


class StorageError(GptOssError):
    """A file cannot be written, or stored content cannot be changed.

    `reason` is the cause without the file's name; `full` is set for a full disk.
    """

    def __init__(self, message: str, *, reason: str = "", full: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.full = full


class SessionError(GptOssError):
    """Saved chats cannot be read, or a chat cannot be saved."""


class ToolError(GptOssError):
    """A tool or its server cannot be started, reached or isolated."""


class ConversionError(GptOssError):
    """A conversion cannot start, cannot finish, or failed verification."""
