"""Which failures of a download pass by themselves, and how long to wait for that.

Waits grow after each failure in a row and end; whoever makes progress starts anew.
"""

from collections.abc import Callable

PAUSES = (
    1,
    2,
    4,
    8,
    16,
)  # seconds before the next try; after the last the error stands
LONGEST_PAUSE = 60  # seconds, whatever a server asks for
DIGITS = 9  # that a number of seconds may have
PASSING = (408, 429, 500, 502, 503, 504)  # answers that may be others in a moment

Say = Callable[[str], None]
Wait = Callable[[float], None]


class StorageError(Exception):
    """Where the Hub keeps a file refused it: its address may have run out."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the Hub's storage answered {status}")


class ShortError(Exception):
    """An answer ended before the file did."""


def passing_errors() -> tuple[type[Exception], ...]:
    """Name the errors to give to `Patience.after`."""
    from huggingface_hub import errors  # noqa: PLC0415 - half a second

    # httpx's base class, or httpx2's: the hub library changed from one to the other.
    http = errors.HTTPError  # pyright: ignore[reportPrivateImportUsage]
    return (http, StorageError, ShortError)


class Patience:
    """Waits after a failure that may pass; raises one that stays."""

    def __init__(self, wait: Wait, say: Say) -> None:
        self._wait = wait
        self._say = say
        self.renew()

    def renew(self) -> None:
        self._pauses = iter(PAUSES)

    def after(self, error: Exception) -> None:
        """Wait before another try, or raise `error`."""
        status = _status(error)
        pause = next(self._pauses, None)
        if pause is None or status not in (None, *PASSING):
            raise error
        pause = max(pause, min(_asked_pause(error), LONGEST_PAUSE))
        self._say(f"{_reason(error, status)}: trying again in {pause} s")
        self._wait(pause)


def _status(error: Exception) -> int | None:
    """Return the status that the Hub answered with; None if there was no answer."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _asked_pause(error: Exception) -> int:
    """Read the seconds that an answer asks to wait; 0 where it names none."""
    response = getattr(error, "response", None)
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    return int(asked[:DIGITS]) if asked.isdecimal() and asked.isascii() else 0


def _reason(error: Exception, status: int | None) -> str:
    if status is not None:
        return f"the Hub answered {status}"
    if isinstance(error, (StorageError, ShortError)):
        return str(error)
    return f"the connection failed with {type(error).__name__}"
