"""A real server under many streams: each answers as it would alone.

Some clients leave in the middle. By hand, for five minutes:

    pytest -m soak tests/test_server_load.py
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.serve_process import Served, serve

LEAVES = 0.25  # of all clients
SLACK = 80 * 10**6  # bytes of the process: answers come and go, allocators round up
TIE = 1e-3  # of logprobs: between two tokens so close either is right
ASKED = 20  # different requests


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serve("--no-store", "--dtype", "float32") as served:
        yield served


@pytest.mark.parametrize(
    ("streams", "seconds"),
    [(8, 10), pytest.param(64, 300, marks=pytest.mark.soak)],
    ids=["8 streams, 10 s", "64 streams, 300 s"],
)
def test_streams_over_http_keep_to_their_answers(
    served: Served, streams: int, seconds: float
) -> None:
    ends = asyncio.run(Load(served, streams, seconds).run())

    print(f"\n{streams} streams, {seconds} s: {dict(ends)}")
    assert ends["whole"] >= streams / 2
    assert ends["left"] > 0


class Load:
    """Clients of one server, each of which asks one request after the other."""

    def __init__(self, served: Served, streams: int, seconds: float) -> None:
        self._served = served
        self._streams, self._seconds = streams, seconds
        self._ends: Counter[str] = Counter()

    async def run(self) -> Counter[str]:
        headers = {"Authorization": f"Bearer {self._served.token}"}
        limits = httpx2.Limits(max_connections=self._streams + 1)
        self._client = httpx2.AsyncClient(
            base_url=self._served.url, headers=headers, limits=limits, timeout=120
        )
        async with self._client:
            alone = [[x async for x in self._tokens(n)] for n in range(ASKED)]
            until = time.monotonic() + self._seconds
            clients = [self._keep_asking(alone, n, until) for n in range(self._streams)]
            watching = asyncio.create_task(self._memory_after(self._seconds / 4))
            await asyncio.gather(*clients)
            early = await watching
            await self._all_have_ended()
            late = resident(self._served.pid)
        self._ends["MB at a quarter"], self._ends["MB at the end"] = (
            early // 10**6,
            late // 10**6,
        )
        assert late < early + SLACK
        return self._ends

    async def _memory_after(self, seconds: float) -> int:
        await asyncio.sleep(seconds)
        return resident(self._served.pid)

    async def _all_have_ended(self) -> None:
        """Nobody asks any more, so nothing may be computed."""
        until = time.monotonic() + 30
        while (
            not {"running": 0.0, "waiting": 0.0}.items()
            <= (figures := await self._figures()).items()
        ):
            assert time.monotonic() < until, figures
            await asyncio.sleep(0.05)

    async def _figures(self) -> dict[str, float]:
        text = (await self._client.get("/metrics")).text
        lines = [line.split() for line in text.splitlines() if not line.startswith("#")]
        return {
            name.partition("{")[0].removeprefix("mlx_gptoss_"): float(value)
            for name, value in lines
        }

    async def _keep_asking(
        self, alone: list[list["Said"]], seed: int, until: float
    ) -> None:
        draw = random.Random(seed)
        while time.monotonic() < until:
            n = draw.randrange(ASKED)
            leaves = draw.randrange(1, 20) if draw.random() < LEAVES else None
            heard: list[Said] = []
            stream = self._tokens(n)
            async for said in stream:
                heard.append(said)
                if len(heard) == leaves:
                    break
            await stream.aclose()  # pyright: ignore[reportAttributeAccessIssue]
            self._compare(heard, alone[n], left=len(heard) == leaves)

    def _compare(self, heard: list["Said"], alone: list["Said"], *, left: bool) -> None:
        self._ends["left" if left else "whole"] += 1
        pairs = zip(heard, alone, strict=False)
        differ = [n for n, (one, other) in enumerate(pairs) if one[0] != other[0]]
        if not differ:
            assert left or len(heard) == len(alone)
        else:
            at = differ[0]
            assert alone[at][1] < TIE, f"{heard[at]} and not {alone[at]}"
            self._ends["ties"] += 1

    async def _tokens(self, n: int) -> AsyncIterator["Said"]:
        """Read the answer to request n, token by token."""
        body = {
            "prompt": f"Count: {n} {n + 1} " + "and " * (n * 7 % 30),
            "max_tokens": 5 + n * 3 % 40,
            "temperature": 0,
            "logprobs": 2,
            "stream": True,
        }
        async with self._client.stream("POST", "/v1/completions", json=body) as reply:
            assert reply.status_code == 200, await reply.aread()
            async for line in reply.aiter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    for choice in json.loads(line.removeprefix("data: "))["choices"]:
                        for said in tokens_of(choice.get("logprobs")):
                            yield said


Said = tuple[str, float]  # a token, and by how much it was likelier than the next


def tokens_of(logprobs: dict[str, Any] | None) -> list[Said]:
    if not logprobs:
        return []
    found = []
    for token, top in zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True):
        best = sorted(top.values(), reverse=True)
        # Two tokens may have one name: then the likelier one is not known.
        found.append((token, best[0] - best[1] if len(best) > 1 else 0.0))
    return found


def resident(pid: int) -> int:
    """Bytes of a process in memory; 0 where the system does not say."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return 0
    lines = status.read_text().splitlines()
    line = next(line for line in lines if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def test_choices_share_the_reading_of_their_prompt(served: Served) -> None:
    body = {
        "prompt": "Once upon a time there was",
        "n": 4,
        "max_tokens": 3,
        "temperature": 0,
    }
    headers = {"Authorization": f"Bearer {served.token}"}

    with httpx2.Client(base_url=served.url, headers=headers, timeout=60) as client:
        reply = client.post("/v1/completions", json=body).json()

    texts = {choice["text"] for choice in reply["choices"]}
    assert (len(reply["choices"]), len(texts)) == (4, 1)
