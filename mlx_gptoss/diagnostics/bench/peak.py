"""Peak memory of this process; asks the system, does not import MLX."""

import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")
PEAK = "VmHWM:"  # "high water mark", in KiB


def peak_rss() -> int:
    """Return the peak resident memory in bytes.

    Linux starts `ru_maxrss` with the parent's value, so a small child of a large parent
    would look large; /proc has the process's own peak.
    """
    if STATUS.exists():
        lines = STATUS.read_text().splitlines()
        line = next(line for line in lines if line.startswith(PEAK))
        return int(line.removeprefix(PEAK).split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
