"""The most memory this process ever had; knows the system only, starts no MLX."""

import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")
PEAK = "VmHWM:"  # "high water mark", in KiB


def peak_rss() -> int:
    """Return the peak of the resident memory in bytes.

    On Linux `ru_maxrss` begins with what the process that started this one had, so a
    small child of a large parent would look large, and no growth would be seen.
    """
    if STATUS.exists():
        lines = STATUS.read_text().splitlines()
        line = next(line for line in lines if line.startswith(PEAK))
        return int(line.removeprefix(PEAK).split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
