"""Retry policy of downloads: which errors are retried, and after which delay.

Delays grow with each consecutive failure, up to a limit; progress resets them.
"""

from collections.abc import Callable

DELAYS = (
    1,
    2,
    4,
    8,
    16,
)  # seconds before each retry; after the last one the error is raised
MAX_DELAY = 60  # seconds, even if a server asks for more
MAX_DIGITS = 9  # of a number of seconds
RETRYABLE_STATUSES = (
    408,
    429,
    500,
    502,
    503,
    504,
)  # often temporary

Notify = Callable[[str], None]
Sleep = Callable[[float], None]


class StorageHostError(Exception):
    """A storage host refused a file; its address may have expired."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the Hub's storage answered {status}")


class TruncatedError(Exception):
    """A response ended before the file did."""


def retryable_errors() -> tuple[type[Exception], ...]:
    """Return the errors to pass to `RetryPolicy.wait_or_raise`."""
    from huggingface_hub import errors  # noqa: PLC0415 - half a second

    # httpx's base class, or httpx2's: the hub library changed from one to the other.
    http = errors.HTTPError  # pyright: ignore[reportPrivateImportUsage]
    return (http, StorageHostError, TruncatedError)


class RetryPolicy:
    """Waits after a retryable error; raises others, and those that persist."""

    def __init__(self, sleep: Sleep, notify: Notify) -> None:
        self._sleep = sleep
        self._notify = notify
        self.reset()

    def reset(self) -> None:
        self._delays = iter(DELAYS)

    def wait_or_raise(self, error: Exception) -> None:
        """Wait before a retry, or raise `error`."""
        status = _status(error)
        pause = next(self._delays, None)
        if pause is None or status not in (None, *RETRYABLE_STATUSES):
            raise error
        pause = max(pause, min(_requested_delay(error), MAX_DELAY))
        self._notify(f"{_describe(error, status)}: retrying in {pause} s")
        self._sleep(pause)


def _status(error: Exception) -> int | None:
    """Return the HTTP status; None if there was no response."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _requested_delay(error: Exception) -> int:
    """Return the seconds of a Retry-After header; 0 without one."""
    response = getattr(error, "response", None)
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    return int(asked[:MAX_DIGITS]) if asked.isdecimal() and asked.isascii() else 0


def _describe(error: Exception, status: int | None) -> str:
    if status is not None:
        return f"the Hub answered {status}"
    if isinstance(error, (StorageHostError, TruncatedError)):
        return str(error)
    return f"the connection failed with {type(error).__name__}"
