"""Read byte ranges of open files into existing memory."""

import os
from collections.abc import Callable, Sequence

Preadv = Callable[[int, Sequence[memoryview], int], int]


def read_into(
    descriptor: int, buffer: memoryview, offset: int, *, preadv: Preadv = os.preadv
) -> bool:
    """Fill `buffer` from `offset` of an open file; False if the file ends first.

    Raises OSError. Thread-safe: the file's own position is not used.
    """
    done = 0
    while done < len(buffer):
        count = preadv(descriptor, [buffer[done:]], offset + done)
        if count <= 0:
            return False
        done += count
    return True
