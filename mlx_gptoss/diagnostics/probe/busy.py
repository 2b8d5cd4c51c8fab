"""Tell whether other programs slowed down a measurement.

On Linux the system says how much CPU time others took. Elsewhere the load average
before the measurement counts. On any system a loop that only computes shows whether
this process had to wait for a core, and the spread between repeats shows the rest.
"""

import os
import resource
import time
from dataclasses import dataclass, field
from pathlib import Path

STAT = Path("/proc/stat")
IDLE_COLUMNS = (3, 4)  # idle and iowait, of the columns of /proc/stat
GUEST_COLUMNS = (8, 9)  # which user and nice include
OTHERS_SHARE = 0.15  # of all cores, that others may take
LOAD_SHARE = 0.5  # of all cores, busy before the measurement
SPIN_SECONDS = 0.02
KEPT_WAITING = 0.1  # of the time
MOST_SPREAD = 1.35


@dataclass
class BusyWatch:
    """Watch the machine from the creation of this object on."""

    stat: Path = STAT
    cores: int = field(default_factory=lambda: os.cpu_count() or 1)
    load: float = field(default_factory=lambda: os.getloadavg()[0])
    spun: float = 0.0
    waited: float = 0.0

    def __post_init__(self) -> None:
        self._started = time.perf_counter()
        self._others = self._others_seconds()

    def spin(self, seconds: float = SPIN_SECONDS) -> None:
        """Compute for a moment, and count how long another program had the core."""
        wall, used = time.perf_counter(), time.thread_time()
        while time.perf_counter() - wall < seconds:
            pass
        spent = time.perf_counter() - wall
        self.spun += spent
        self.waited += max(0.0, spent - (time.thread_time() - used))

    def reasons(self, spread: float = 1.0) -> list[str]:
        """Return why the machine counts as busy; `spread` is that of repeats."""
        found = []
        wall = time.perf_counter() - self._started
        if self._others is not None:
            others = (self._others_seconds() or 0.0) - self._others
            if others > OTHERS_SHARE * wall * self.cores:
                taken = f"{others / wall:.1f} of {self.cores} cores"
                found.append(f"other programs used {taken}")
        elif self.load > LOAD_SHARE * self.cores:
            found.append(f"the load was {self.load:.1f} on {self.cores} cores")
        if self.waited > KEPT_WAITING * self.spun:
            share = f"{self.waited / self.spun:.0%}"
            found.append(f"other programs had the core for {share} of the time")
        if spread > MOST_SPREAD:
            found.append(f"repeats of a measurement differed by {spread:.1f}x")
        return found

    def _others_seconds(self) -> float | None:
        """Return the CPU seconds of other processes since the start of the system."""
        try:
            line = self.stat.read_text().splitlines()[0].split()
        except (OSError, IndexError):
            return None
        if line[:1] != ["cpu"]:
            return None
        counts = [int(word) for word in line[1:]]
        left_out = {*IDLE_COLUMNS, *GUEST_COLUMNS}
        ticks = sum(n for at, n in enumerate(counts) if at not in left_out)
        return ticks / os.sysconf("SC_CLK_TCK") - _own_seconds()


def _own_seconds() -> float:
    found = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    used = [resource.getrusage(who) for who in found]
    return sum(each.ru_utime + each.ru_stime for each in used)
