"""Embed the model in an asyncio program whose loop runs while the model generates.

No thread waits for the model; leaving the `async for` stops it within a token.
"""

import asyncio
from contextlib import aclosing

from mlx_gptoss import Answer, AsyncChat, Runtime, SamplingParams, load


async def beat(beats: list[int]) -> None:
    """Represent the rest of the program, for example a window."""
    while True:
        beats.append(len(beats))
        await asyncio.sleep(0.001)


async def converse(runtime: Runtime) -> None:
    """Ask a question, then ask another and stop the answer."""
    greedy = SamplingParams(temperature=0)
    chat = AsyncChat(runtime, date="2026-11-22", params=greedy)
    async for event in chat.send("What is 417 + 285?"):
        if isinstance(event, Answer):
            print(event.text, end="", flush=True)
    print()
    async with aclosing(chat.send("What is 123 + 456?")) as events:
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
