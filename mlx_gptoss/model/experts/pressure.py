"""Memory pressure: decide when slot pools should shrink and when they may grow again.

macOS reports memory pressure in `kern.memorystatus_vm_pressure_level`. Once a warning
has lasted, pools shrink by a quarter, one after the other, and again after a pause if
the warning persists. After a long quiet period they grow back. Knows nothing of pools:
`direction` is polled, and returns SHRINK, STAY or GROW.
"""

import ctypes
import sys
import time
from collections.abc import Callable

NORMAL, WARNING, CRITICAL = 1, 2, 4
PRESSURE_SYSCTL = b"kern.memorystatus_vm_pressure_level"

POLL_SECONDS = 1.0
CONFIRM_SECONDS = 2.0  # for a warning; a critical level counts at once
PAUSE_SECONDS = 45.0  # between rounds of shrinking: the system reacts slowly
GROW_AFTER_SECONDS = 180.0  # without pressure

SHRINK, STAY, GROW = -1, 0, 1


def read_system_level() -> int:
    """Return macOS's memory pressure level; NORMAL on other systems."""
    if sys.platform != "darwin":
        return NORMAL
    level, size = ctypes.c_int(NORMAL), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
    libc = ctypes.CDLL(None)
    failed = libc.sysctlbyname(
        PRESSURE_SYSCTL,
        ctypes.byref(level),
        ctypes.byref(size),
        None,
        ctypes.c_size_t(0),
    )
    return NORMAL if failed else level.value


class MemoryPressure:
    """Turn pressure levels over time into directions; `level` and `clock` for tests."""

    def __init__(
        self,
        level: Callable[[], int] = read_system_level,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._level = level
        self._clock = clock
        self._asked = -POLL_SECONDS
        self._since = clock()  # when the state below began
        self._state = NORMAL
        self._acted: float | None = None

    def direction(self) -> int:
        """Return whether a round of shrinking or growing should start now."""
        now = self._clock()
        if now - self._asked < POLL_SECONDS:
            return STAY
        self._asked = now
        level = self._level()
        if (level == NORMAL) != (self._state == NORMAL):
            self._since = now
        self._state = level
        if level == NORMAL:
            return GROW if self._lasted(now, GROW_AFTER_SECONDS) else STAY
        confirmed = level >= CRITICAL or now - self._since >= CONFIRM_SECONDS
        rested = self._acted is None or now - self._acted >= PAUSE_SECONDS
        return SHRINK if confirmed and rested else STAY

    def _lasted(self, now: float, least: float) -> bool:
        last = self._since if self._acted is None else max(self._since, self._acted)
        return now - last >= least

    def finish_round(self) -> None:
        """Record that a round is complete."""
        self._acted = self._clock()
