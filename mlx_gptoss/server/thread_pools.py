"""Thread pools that keep slow requests from delaying fast ones.

Short work runs in asyncio's default pool. Long work (huge prompts, slow grammars) has
pools of its own, where it queues only behind work of the same kind.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

LONG_WORK = 2**18  # characters or bytes, about 0.1 s of work
COMPILE_THREADS = 2  # threads


class ThreadPools:
    """The thread pools of one server."""

    def __init__(self) -> None:
        self._long = ThreadPoolExecutor(1, "long-request")
        self._compiling = ThreadPoolExecutor(COMPILE_THREADS, "grammars")

    async def run(
        self, size: int, work: Callable[P, T], /, *args: P.args, **options: P.kwargs
    ) -> T:
        """Run work on `size` characters or bytes of input."""
        if size <= LONG_WORK:
            return await asyncio.to_thread(work, *args, **options)
        return await asyncio.wrap_future(self._long.submit(work, *args, **options))

    async def compile(
        self, size: int, work: Callable[P, T], /, *args: P.args, **options: P.kwargs
    ) -> T:
        """Run work that compiles a grammar or schema sent by a client."""
        if size > LONG_WORK:
            return await self.run(size, work, *args, **options)
        return await asyncio.wrap_future(self._compiling.submit(work, *args, **options))

    def close(self) -> None:
        """Cancel queued work and start none."""
        for pool in (self._long, self._compiling):
            pool.shutdown(wait=False, cancel_futures=True)
