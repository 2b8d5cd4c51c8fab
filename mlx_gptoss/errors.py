"""Every error this package raises on purpose; knows nothing of the rest.

    GptOssError
    ├── ConfigError         `config.json` says something the model cannot do
    ├── CheckpointError     a weight file is missing, damaged or of a wrong shape
    ├── HubError            a model could not be found or downloaded
    ├── MemoryBudgetError   the model does not fit; the message says what would
    ├── PromptError         the conversation or prompt cannot be rendered or run
    │   ├── SchemaError     a schema or grammar cannot be enforced
    │   └── LongPromptError it was found too long before all of it was read
    ├── BusyError           too many requests wait already: try again later
    ├── ModelError          the model failed while it computed
    │   └── NonFiniteError  its logits are NaN or infinite: no token can be drawn
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


class GptOssError(Exception):
    """Base of every error raised on purpose: says what, where and what to do."""


class ConfigError(GptOssError):
    """`config.json` is unreadable or asks for something unsupported."""


class CheckpointError(GptOssError):
    """A weight file is missing, damaged, or not what the config promises."""


class HubError(GptOssError):
    """A model id could not be resolved or downloaded."""


class MemoryBudgetError(GptOssError):
    """The model does not fit the memory it was given."""


class PromptError(GptOssError):
    """A conversation, prompt or sampling request is invalid; `where`, if that is known.

    `where` is a place in what was given, such as `messages[2].content[0]`.
    """

    def __init__(self, message: str, *, where: str | None = None) -> None:
        super().__init__(message)
        self.where = where


class SchemaError(PromptError):
    """A JSON schema, regular expression or grammar asks for what cannot be enforced."""


class LongPromptError(PromptError):
    """A prompt fills the context: `tokens` of it were counted, if not more."""

    def __init__(self, tokens: int, context: int) -> None:
        super().__init__(
            f"the prompt has at least {tokens:,} tokens and the context holds "
            f"{context:,}: shorten it, or start a new conversation"
        )
        self.tokens = tokens
        self.context = context


class BusyError(GptOssError):
    """No more requests are taken now; `retry_after` guesses the seconds until then."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ModelError(GptOssError):
    """The model failed while it computed; the answers it was computing are lost."""


class NonFiniteError(ModelError):
    """The model's logits are NaN or infinite: this answer cannot go on."""


class StorageError(GptOssError):
    """A file cannot be written, or what is stored not changed.

    `reason` says why without naming a file; the disk may be `full`.
    """

    def __init__(self, message: str, *, reason: str = "", full: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.full = full


class SessionError(GptOssError):
    """The chats on disk cannot be read, or a chat cannot be saved among them."""


class ToolError(GptOssError):
    """A tool or its server cannot be started, reached, or trusted to be isolated."""


class ConversionError(GptOssError):
    """A conversion cannot start, cannot finish, or failed its verification."""
