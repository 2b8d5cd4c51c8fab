"""Durations as Ollama has them: `5m` or seconds in requests, nanoseconds in replies."""

import math
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator

NANOSECONDS = 10**9
FOREVER = math.inf
UNIT_SECONDS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
STEP = r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)"
DURATION = re.compile(rf"([+-]?)((?:{STEP})+)")
NUMBER = re.compile(r"[+-]?(?:\d{1,18}(?:\.\d{0,9})?|\.\d{1,9})")
LONGEST = timedelta(days=365 * 290)  # Go's longest, which stands for forever


def read_keep_alive(value: Any) -> float | None:
    """Read seconds, or text such as `1h30m`; what is negative is forever.

    Raises ValueError, which says what is expected.
    """
    if value is None:
        return None
    seconds = _seconds(value) if isinstance(value, str) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise ValueError('give seconds, or a duration such as "5m"')
    if math.isnan(seconds):
        raise ValueError('give seconds, or a duration such as "5m"')
    return FOREVER if seconds < 0 else float(seconds)


KeepAlive = Annotated[float | None, BeforeValidator(read_keep_alive)]


def nanoseconds(seconds: float) -> int:
    return round(seconds * NANOSECONDS)


def timestamp(seconds: float | None = None) -> str:
    """Write a time, given in seconds since 1970, or now."""
    moment = (
        datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    )
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def expiry(seconds: float | None) -> str:
    """Write the time in so many seconds; None, and very many, are far away."""
    most = LONGEST.total_seconds()
    left = most if seconds is None else min(seconds, most)
    return timestamp(datetime.now(UTC).timestamp() + left)


def _seconds(text: str) -> float | None:
    """Read a number, or Go's form of a duration; None if it is neither."""
    text = text.strip()
    if NUMBER.fullmatch(text):
        return float(text)
    found = DURATION.fullmatch(text)
    if found is None:
        return None
    total = sum(float(n) * UNIT_SECONDS[unit] for n, unit in re.findall(STEP, found[2]))
    return -total if found[1] == "-" else total
