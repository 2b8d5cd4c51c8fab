"""Threads for the work of requests, so that none of them keeps the others waiting.

Short work shares threads. Long work (of a huge prompt, or of a grammar that takes its
time) has threads to itself, where it waits for others of its kind only. The event loop
does none of it.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

LONG_WORK = 2**18  # characters or bytes: a tenth of a second or more
COMPILE_THREADS = 2  # threads


class ThreadPools:
    """The threads of one server."""

    def __init__(self) -> None:
        self._long = ThreadPoolExecutor(1, "long-request")
        self._compiling = ThreadPoolExecutor(COMPILE_THREADS, "grammars")

    async def run(
        self, size: int, work: Callable[P, T], /, *args: P.args, **options: P.kwargs
    ) -> T:
        """Run work on so many characters or bytes."""
        if size <= LONG_WORK:
            return await asyncio.to_thread(work, *args, **options)
        return await asyncio.wrap_future(self._long.submit(work, *args, **options))

    async def compile(
        self, size: int, work: Callable[P, T], /, *args: P.args, **options: P.kwargs
    ) -> T:
        """Run work that compiles what a client sent."""
        if size > LONG_WORK:
            return await self.run(size, work, *args, **options)
        return await asyncio.wrap_future(self._compiling.submit(work, *args, **options))

    def close(self) -> None:
        """Begin nothing more."""
        for lane in (self._long, self._compiling):
            lane.shutdown(wait=False, cancel_futures=True)
