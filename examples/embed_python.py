"""Embed the model in an asyncio program: its loop goes on while the model works.

One thread of the program waits for the model, `stream` hands what comes to the loop,
and leaving the `async for` stops the model within a token.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from mlx_gptoss import Answer, Chat, Runtime, SamplingParams, load


async def stream(chat: Chat, text: str) -> AsyncGenerator[Any]:
    """Yield the events of one turn."""
    loop = asyncio.get_running_loop()
    came: asyncio.Queue[Any] = asyncio.Queue()

    def pump() -> None:
        try:
            for event in chat.send(text):
                loop.call_soon_threadsafe(came.put_nowait, event)
        finally:
            loop.call_soon_threadsafe(came.put_nowait, None)

    pumping = loop.run_in_executor(None, pump)
    try:
        while (event := await came.get()) is not None:
            yield event
    finally:
        chat.cancel()
        await pumping  # raises what went wrong in the turn


async def beat(beats: list[int]) -> None:
    """Stand for the rest of the program, a window for one."""
    while True:
        beats.append(len(beats))
        await asyncio.sleep(0.001)


async def converse(runtime: Runtime) -> None:
    """Ask, then ask something long and stop it."""
    greedy = SamplingParams(temperature=0)
    chat = Chat(runtime, date="2026-11-22", params=greedy)
    async for event in stream(chat, "What is 417 + 285?"):
        if isinstance(event, Answer):
            print(event.text, end="", flush=True)
    print()
    async with aclosing(stream(chat, "What is 123 + 456?")) as events:
        async for _ in events:
            break
    print("stopped after one event")


async def main() -> None:
    """Load off the loop, talk, and give the memory back."""
    runtime = await asyncio.to_thread(load, "demo")
    beats: list[int] = []
    other = asyncio.create_task(beat(beats))
    try:
        await converse(runtime)
    finally:
        other.cancel()
        await asyncio.to_thread(runtime.close)
    print("the loop went on meanwhile:", len(beats) > 10)


asyncio.run(main())
