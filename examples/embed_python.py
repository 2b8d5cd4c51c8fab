"""Embed the model in an asyncio program whose loop runs while the model generates.

One thread waits for the model and `stream` passes its events to the loop; leaving the
`async for` stops the model within a token.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from mlx_gptoss import Answer, Chat, Event, Runtime, SamplingParams, load


async def stream(chat: Chat, text: str) -> AsyncGenerator[Event]:
    """Yield the events of one turn."""
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[Event | None] = asyncio.Queue()

    def pump() -> None:
        try:
            for event in chat.send(text):
                loop.call_soon_threadsafe(events.put_nowait, event)
        finally:
            loop.call_soon_threadsafe(events.put_nowait, None)

    pumping = loop.run_in_executor(None, pump)
    try:
        while (event := await events.get()) is not None:
            yield event
    finally:
        chat.cancel()
        await pumping  # raises the errors of the turn


async def beat(beats: list[int]) -> None:
    """Represent the rest of the program, for example a window."""
    while True:
        beats.append(len(beats))
        await asyncio.sleep(0.001)


async def converse(runtime: Runtime) -> None:
    """Ask a question, then ask another and stop the answer."""
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
    """Load outside the loop, converse, and free the memory."""
    runtime = await asyncio.to_thread(load, "demo")
    beats: list[int] = []
    other = asyncio.create_task(beat(beats))
    try:
        await converse(runtime)
    finally:
        other.cancel()
        await asyncio.to_thread(runtime.close)
    print("the loop kept running:", len(beats) > 10)


asyncio.run(main())
