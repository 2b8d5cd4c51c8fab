"""Many clients at once: nothing lost, doubled or crossed, and nothing left behind.

Every stream is checked against its answer alone, to the last character. By hand, 64
streams for five minutes:

    pytest -m soak tests/server/test_server_load.py
"""

import asyncio
import json
import random
import time
from typing import Any

import httpx2
import psutil
import pytest

from tests.support.serve_process import Served, serve

GAP = 0.05  # of logprobs: a greedy choice that no rounding can turn
PATIENCE = 240  # seconds more than it should take, for a machine that is busy
CANCELLED = 0.3  # of all requests
MEMORY = 96 * 2**20  # bytes a server may grow by once it has warmed up
QUESTIONS = [f"What is {a} + {b}?" for a, b in ((12, 30), (417, 285), (7, 8), (90, 9))]
QUESTIONS += ["Hello!", "Who are you?", "My name is Maria.", "What is your name?"]
PROMPT = "<|start|>user<|message|>{}<|end|><|start|>assistant"


def raw(text: str, **more: Any) -> dict[str, Any]:
    prompt = PROMPT.format(text)
    body = {"prompt": prompt, "parse_special": True, "max_tokens": 150}
    return body | {"temperature": 0} | more


class Client:
    """Asks one server, and knows what it should say."""

    def __init__(self, served: Served) -> None:
        self.http = httpx2.AsyncClient(
            base_url=served.url,
            headers={"authorization": f"Bearer {served.token}"},
            timeout=120,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
        )
        self.expected: dict[str, str] = {}
        self.whole = self.left = 0

    async def learn(self) -> None:
        """Ask each question alone; keep those whose answer no rounding can change."""
        for text in QUESTIONS:
            reply = await self.http.post("/v1/completions", json=raw(text, logprobs=2))
            [choice] = reply.json()["choices"]
            tops = choice["logprobs"]["top_logprobs"]
            gaps = [max(top.values()) - min(top.values()) for top in tops]
            if min(gaps) > GAP:
                self.expected[text] = choice["text"]

    async def ask(self, chance: random.Random) -> None:
        """Ask one question; leave in the middle of some answers."""
        text = chance.choice(list(self.expected))
        patience = chance.randrange(1, 20) if chance.random() < CANCELLED else None
        said = ""
        body = raw(text, stream=True)
        async with self.http.stream("POST", "/v1/completions", json=body) as reply:
            assert reply.status_code == 200
            async for line in reply.aiter_lines():
                if line.startswith("data: {"):
                    said += json.loads(line[6:])["choices"][0]["text"]
                    if patience is not None and len(said) > patience:
                        self.left += 1
                        assert self.expected[text].startswith(said)
                        return
        assert said == self.expected[text]
        self.whole += 1

    async def figure(self, name: str) -> float:
        """A figure of the server, by its name in the metrics."""
        lines = (await self.http.get("/metrics")).text.splitlines()
        return sum(float(one.split()[-1]) for one in lines if one.startswith(name))


async def load(served: Served, streams: int, seconds: float) -> Client:
    client, process = Client(served), psutil.Process(served.pid)
    async with client.http:
        await client.learn()
        assert len(client.expected) >= 4

        async def stream(number: int, until: float) -> None:
            chance = random.Random(number)
            while time.monotonic() < until:
                await client.ask(chance)

        async def phase(seconds: float) -> None:
            until = time.monotonic() + seconds
            await asyncio.gather(*(stream(n, until) for n in range(streams)))
            while await client.figure("mlx_gptoss_running"):
                await asyncio.sleep(0.05)

        await phase(seconds / 4)  # what is kept for later is kept now
        tasks = await client.figure("mlx_gptoss_tasks")
        memory, handles = process.memory_info().rss, process.num_fds()
        await phase(seconds * 3 / 4)
        assert process.memory_info().rss - memory < MEMORY
        assert await client.figure("mlx_gptoss_tasks") <= tasks + 1
        assert process.num_fds() <= handles + 2
        assert await client.figure("mlx_gptoss_waiting") == 0
    return client


@pytest.mark.parametrize(
    ("streams", "seconds"),
    [
        pytest.param(8, 2, id="8 for 2 s"),
        pytest.param(64, 300, id="64 for 5 min", marks=pytest.mark.soak),
    ],
)
def test_streams_are_whole_and_nothing_is_left(streams: int, seconds: float) -> None:
    with serve("--parallel", str(streams), "--queue", "128") as served:
        work = asyncio.wait_for(load(served, streams, seconds), seconds * 4 + PATIENCE)
        client = asyncio.run(work)

    assert client.whole >= streams
    assert client.left > 0
    print(f"\n{client.whole} whole, {client.left} left in the middle")
