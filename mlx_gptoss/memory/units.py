"""Parse and format sizes. GB = 10^9 bytes in text; bytes in the API.

Only the memory that a machine has is written as on its label, where GB means 2^30.
"""

import re

from mlx_gptoss.errors import MemoryBudgetError

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
UNITS |= {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "": 1}
SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_bytes(size: str | int) -> int:
    """Parse "16GB", "12.5 GiB", "900MB" or a number of bytes."""
    if isinstance(size, int):
        return _positive(size, size)
    match = SIZE.fullmatch(size)
    if match is None or match[2].upper() not in UNITS:
        raise MemoryBudgetError(
            f"`{size}` is not a size: write `16GB`, `12.5GB` or a number of bytes"
        )
    return _positive(int(float(match[1]) * UNITS[match[2].upper()]), size)


def format_machine_memory(count: int) -> str:
    """Format the memory of a machine as its label does: `64 GB` for 64 * 2^30 bytes."""
    size = f"{count / UNITS['GIB']:.1f}".removesuffix(".0")
    return f"{size} GB" if size != "0" else format_bytes(count)


def _positive(count: int, size: str | int) -> int:
    if count <= 0:
        raise MemoryBudgetError(f"memory `{size}` leaves no room for a model")
    return count


def format_bytes(count: int) -> str:
    """Format bytes: `12.1 GB`, `847 MB`, `3 kB`."""
    if count >= 10**9:
        return f"{count / 10**9:.1f} GB"
    if count >= 10**6:
        return (
            f"{count / 10**6:.0f} MB" if count >= 10**7 else f"{count / 10**6:.1f} MB"
        )
    return f"{count / 10**3:.0f} kB" if count >= 10**3 else f"{count} bytes"
