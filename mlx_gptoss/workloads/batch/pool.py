"""Many items at a time, their results in order or as they end.

    async for result in work_through(items, work, parallel=16, in_order=True):
        ...

Neither items nor results pile up: no more are taken than `parallel` at a time, and
`AHEAD` times as many before the first result that is missing, where an order is kept.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
AHEAD = 16


async def work_through(
    items: Iterator[ItemT],
    work: Callable[[ItemT], Awaitable[ResultT]],
    *,
    parallel: int,
    in_order: bool,
) -> AsyncGenerator[ResultT]:
    """Yield `work(item)` for each item. Leaving the loop cancels what runs."""
    running: dict[asyncio.Task[ResultT], int] = {}
    ended: dict[int, ResultT] = {}
    taken = given = 0
    exhausted = False
    try:
        while True:
            while (
                not exhausted
                and len(running) < parallel
                and taken - given < parallel * AHEAD
            ):
                try:
                    item = next(items)
                except StopIteration:
                    exhausted = True
                    break
                running[asyncio.ensure_future(_run(work, item))] = taken
                taken += 1
            if not running and not ended:
                return
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=running.__getitem__):
                ended[running.pop(task)] = task.result()
            ready = sorted(ended) if not in_order else _run_of_numbers(ended, given)
            for number in ready:
                given += 1
                yield ended.pop(number)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _run(work: Callable[[ItemT], Awaitable[ResultT]], item: ItemT) -> ResultT:
    return await work(item)


def _run_of_numbers(found: dict[int, ResultT], first: int) -> list[int]:
    """Return `first`, `first` + 1, ... as far as they are all found."""
    last = first
    while last in found:
        last += 1
    return list(range(first, last))
