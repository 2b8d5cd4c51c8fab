"""Drive a turn: run the work it waits for, and yield its events.

    yield from drive(turn)                     # in the caller's thread
    async for event in drive_async(turn, []):  # without blocking the event loop

Knows nothing of what a turn does.
"""

import asyncio
from collections.abc import AsyncGenerator, Generator
from inspect import GEN_CLOSED, getgeneratorstate

from mlx_gptoss.chat.turn_work import RunningTurn, TimeLimit, Work, check_timeout
from mlx_gptoss.harmony.events import Event

LOOP_TURNS = 3  # until the event loop begins to end an iterator that was just left


def drive(turn: RunningTurn[None], timeout: float | None = None) -> Generator[Event]:
    """Return the events of a turn, whose work runs in the reader's thread.

    `timeout` is the most seconds from the first event that is asked for to the last;
    then AnswerTimeout is raised in the turn, which ends the answer and passes it on.
    """
    check_timeout(timeout)
    return _drive(turn, timeout)


def _drive(turn: RunningTurn[None], timeout: float | None) -> Generator[Event]:
    limit = TimeLimit(timeout)
    try:
        item = next(turn)
        while True:
            if isinstance(item, Event):
                yield item
                item = next(turn)
                continue
            try:
                result = item.run(limit)
            except BaseException as error:  # an interrupt, too: the turn cleans up
                item = turn.throw(error)
            else:
                item = turn.send(result)
    except StopIteration:  # of the turn
        return
    finally:
        turn.close()


def drive_async(
    turn: RunningTurn[None],
    leaving: "list[asyncio.Task[None]]",
    timeout: float | None = None,
) -> AsyncGenerator[Event]:
    """Return the events of a turn, whose work does not block the running event loop.

    `leaving` are the ends of answers that were left early, which run as tasks: a turn
    begins after those that came before it. `timeout` is that of `drive`.
    """
    check_timeout(timeout)
    return _drive_async(turn, leaving, timeout)


async def _drive_async(
    turn: RunningTurn[None],
    leaving: "list[asyncio.Task[None]]",
    timeout: float | None,
) -> AsyncGenerator[Event]:
    for _ in range(LOOP_TURNS):
        await asyncio.sleep(0)
    while earlier := [one for one in leaving if not one.done()]:
        await asyncio.wait(earlier)
    limit, work = TimeLimit(timeout), None
    try:
        item = next(turn)
        while True:
            if isinstance(item, Event):
                yield item
                item = next(turn)
                continue
            work = item
            try:
                result = await work.run_async(limit)
            except Exception as error:
                await work.release()
                item = turn.throw(error)
            else:
                item = turn.send(result)
    except StopIteration:  # of the turn
        return
    finally:
        # The reader left, or its task was cancelled:
        if getgeneratorstate(turn) != GEN_CLOSED:
            end = asyncio.ensure_future(_end(turn, work))
            leaving.append(end)
            end.add_done_callback(leaving.remove)
            await asyncio.shield(end)


async def _end(turn: RunningTurn[None], work: Work | None) -> None:
    if work is not None:
        await work.release()
    turn.close()
