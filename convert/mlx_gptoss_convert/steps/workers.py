"""Pieces worked on in threads, results in the order of the pieces.

numpy lets go of the interpreter while it computes, so threads are enough. Knows
nothing of what the pieces are.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

MOST_WORKERS = 4  # the disk keeps up with no more, and each holds a piece in memory

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def worker_count() -> int:
    return min(MOST_WORKERS, os.cpu_count() or 1)


def map_in_order(
    work: Callable[[Piece], Result], pieces: Iterable[Piece]
) -> Generator[Result, None, None]:
    """Yield `work(piece)` of every piece; `pieces` are taken in the caller's thread.

    At most one piece more than there are workers is held at a time. The first error
    is raised where its result would have come.
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
