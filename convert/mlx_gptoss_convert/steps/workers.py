"""Map a function over pieces in threads, with results in order.

Threads are enough because numpy releases the GIL while it computes.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

MOST_WORKERS = 4  # a disk feeds no more, and each holds a piece in memory

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def worker_count() -> int:
    return min(MOST_WORKERS, os.cpu_count() or 1)


def map_in_order(
    work: Callable[[Piece], Result], pieces: Iterable[Piece]
) -> Generator[Result, None, None]:
    """Yield `work(piece)` for every piece, iterating `pieces` in the caller's thread.

    Holds at most one piece more than there are workers. Raises the first error in the
    place of its result.
    """
    waiting: deque[Future[Result]] = deque()
    count = worker_count()
    pool = ThreadPoolExecutor(count, thread_name_prefix="codec")
    try:
        for piece in pieces:
            waiting.append(pool.submit(work, piece))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
