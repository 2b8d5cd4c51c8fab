"""An event loop that counts how often other threads wake it."""

import asyncio
from typing import Any


class CountingLoop(asyncio.SelectorEventLoop):
    """Give it to `asyncio.Runner(loop_factory=CountingLoop)`."""

    wakes = 0

    def call_soon_threadsafe(self, *args: Any, **options: Any) -> asyncio.Handle:
        self.wakes += 1
        return super().call_soon_threadsafe(*args, **options)
