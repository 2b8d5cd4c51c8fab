"""Which failures of a download pass by themselves, and how long to wait for that.

Waits grow after each failure in a row and end; whoever makes progress starts anew.
"""

from collections.abc import Callable

DELAYS = (
    1,
    2,
    4,
    8,
    16,
)  # seconds before the next try; after the last the error stands
MAX_DELAY = 60  # seconds, whatever a server asks for
MAX_DIGITS = 9  # that a number of seconds may have
RETRYABLE_STATUSES = (
    408,
    429,
    500,
    502,
    503,
    504,
)  # answers that may be others in a moment

Notify = Callable[[str], None]
Sleep = Callable[[float], None]


class StorageHostError(Exception):
    """Where the Hub keeps a file refused it: its address may have run out."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the Hub's storage answered {status}")


class TruncatedError(Exception):
    """An answer ended before the file did."""


def retryable_errors() -> tuple[type[Exception], ...]:
    """Name the errors to give to `Patience.after`."""
    from huggingface_hub import errors  # noqa: PLC0415 - half a second

    # httpx's base class, or httpx2's: the hub library changed from one to the other.
    http = errors.HTTPError  # pyright: ignore[reportPrivateImportUsage]
    return (http, StorageHostError, TruncatedError)


class RetryPolicy:
    """Waits after a failure that may pass; raises one that stays."""

    def __init__(self, sleep: Sleep, notify: Notify) -> None:
        self._sleep = sleep
        self._notify = notify
        self.reset()

    def reset(self) -> None:
        self._delays = iter(DELAYS)

    def wait_or_raise(self, error: Exception) -> None:
        """Wait before another try, or raise `error`."""
        status = _status(error)
        pause = next(self._delays, None)
        if pause is None or status not in (None, *RETRYABLE_STATUSES):
            raise error
        pause = max(pause, min(_requested_delay(error), MAX_DELAY))
        self._notify(f"{_describe(error, status)}: trying again in {pause} s")
        self._sleep(pause)


def _status(error: Exception) -> int | None:
    """Return the status that the Hub answered with; None if there was no answer."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _requested_delay(error: Exception) -> int:
    """Read the seconds that an answer asks to wait; 0 where it names none."""
    response = getattr(error, "response", None)
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    return int(asked[:MAX_DIGITS]) if asked.isdecimal() and asked.isascii() else 0


def _describe(error: Exception, status: int | None) -> str:
    if status is not None:
        return f"the Hub answered {status}"
    if isinstance(error, (StorageHostError, TruncatedError)):
        return str(error)
    return f"the connection failed with {type(error).__name__}"
