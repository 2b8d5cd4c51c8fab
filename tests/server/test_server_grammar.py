"""A real server whose grammar worker is killed: no answer of others, and no life, lost.

By hand, 60 kills:

    pytest -m soak tests/server/test_server_grammar.py
"""

import asyncio
import os
import random
import re
import signal
from contextlib import suppress
from typing import Any

import httpx2
import psutil
import pytest

from tests.support.serve_process import Served, serve

VOTES = "(aye|no)(, (aye|no)){8}"
VOTE = {"type": "object", "properties": {"vote": {"enum": ["aye", "no"]}}}


def question(number: int, **more: Any) -> dict[str, Any]:
    """Ask for an answer that is bound by a grammar of its own."""
    return {
        "model": "demo",
        "messages": [{"role": "user", "content": f"What is {number} + 12?"}],
        "response_format": {"type": "regex", "regex": f"{VOTES}( {number})?"},
        "max_tokens": 200,
        "reasoning_budget_tokens": 4,
        "temperature": 0,
        **more,
    }


def worker_of(served: Served) -> psutil.Process | None:
    """The process in which a server's grammars run."""
    for child in psutil.Process(served.pid).children():
        with suppress(psutil.Error):  # it has just ended
            if any("harmony.worker" in word for word in child.cmdline()):
                return child
    return None


async def ask_while_it_is_killed(served: Served, asks: int, kills: int) -> list[str]:
    """The errors of some answers; those without one must be what was asked for."""
    chance, errors, answered = random.Random(3), [], set[int]()
    http = httpx2.AsyncClient(
        base_url=served.url,
        headers={"authorization": f"Bearer {served.token}"},
        timeout=120,
    )

    async def ask(number: int) -> None:
        reply = await http.post("/v1/chat/completions", json=question(number))
        answered.add(number)
        said = reply.json()
        if reply.status_code != 200:
            errors.append(said["error"]["message"])
            return
        assert said["choices"][0]["finish_reason"] == "stop"
        content = said["choices"][0]["message"]["content"]
        assert re.fullmatch(f"{VOTES}( {number})?", content)

    async def kill() -> None:
        for _ in range(kills):
            before = len(answered)
            while len(answered) == before:  # the worker that is there works
                await asyncio.sleep(0.01)
            await asyncio.sleep(chance.random() * 0.3)
            worker = worker_of(served)
            if len(answered) == asks or worker is None:
                return
            os.kill(worker.pid, signal.SIGKILL)
            assert (await http.get("/health")).json()["status"] == "ok"

    async with http:
        await asyncio.gather(kill(), *(ask(n) for n in range(asks)))
        await ask(asks)
        tools = [{"type": "function", "function": {"name": "f", "parameters": VOTE}}]
        called = {"tools": tools, "tool_choice": "required", "max_tokens": 5}
        reply = await http.post("/v1/chat/completions", json=question(3) | called)
        assert reply.status_code == 200
    return errors


@pytest.mark.parametrize(
    ("asks", "kills"),
    [
        pytest.param(6, 3, id="3 kills"),
        pytest.param(200, 60, id="60 kills", marks=pytest.mark.soak),
    ],
)
def test_a_worker_that_is_killed_ends_one_answer_at_most(asks: int, kills: int) -> None:
    with serve("--parallel", "8", "--queue", "256", "--no-store") as served:
        errors = asyncio.run(ask_while_it_is_killed(served, asks, kills))

    assert len(errors) <= kills
    assert [error for error in errors if "cannot be enforced" not in error] == []
