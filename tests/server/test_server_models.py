"""Models by name: loaded on demand, unloaded when idle or in the way."""

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.errors import MemoryBudgetError
from mlx_gptoss.memory import Plan
from mlx_gptoss.memory.budget import Budget
from mlx_gptoss.server.models import ModelChoice, Models, ModelSource
from tests.support.fakes import answering

GIGABYTE = 10**9


def plan(size: int) -> Plan:
    budget = Budget(10 * GIGABYTE, 10 * GIGABYTE, "a test")
    return Plan("resident", {"all": size}, 0, 0, 100, budget)


class Shelf:
    """Sources that count what is done with them."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.open: set[str] = set()

    def source(self, name: str, size: int = GIGABYTE) -> ModelSource:
        def load() -> Runtime:
            self.events.append(f"load {name}")
            self.open.add(name)
            return Shelved(self, name, size)

        return ModelSource(name, load, lambda: plan(size))


class Shelved(Runtime):
    def __init__(self, shelf: Shelf, name: str, size: int) -> None:
        made = answering()
        super().__init__(made.model, tokenizer=made.tokenizer, plan=plan(size))
        made.close()
        self._shelf, self._name = shelf, name

    def close(self) -> None:
        if not self.closed:
            self._shelf.events.append(f"close {self._name}")
            self._shelf.open.discard(self._name)
        super().close()


def run(work: Callable[[Shelf], Coroutine[Any, Any, None]]) -> Shelf:
    shelf = Shelf()
    asyncio.run(work(shelf))
    return shelf


async def use(models: Models, name: str) -> None:
    async with models.lease(name) as runtime:
        assert not runtime.closed


def test_a_model_is_loaded_once_for_all_who_ask() -> None:
    async def work(shelf: Shelf) -> None:
        models = Models([shelf.source("a")])
        await asyncio.gather(*(use(models, "a") for _ in range(5)))
        await models.close()

    assert run(work).events == ["load a", "close a"]


def test_models_that_fit_together_stay() -> None:
    async def work(shelf: Shelf) -> None:
        sources = [shelf.source(name) for name in "ab"]
        models = Models(sources, budget=2 * GIGABYTE)
        for name in "abab":
            await use(models, name)
        assert shelf.open == {"a", "b"}
        await models.close()

    assert run(work).events == ["load a", "load b", "close a", "close b"]


def test_the_model_used_longest_ago_makes_room() -> None:
    async def work(shelf: Shelf) -> None:
        sources = [shelf.source(name) for name in "abc"]
        models = Models(sources, budget=2 * GIGABYTE)
        for name in "abac":
            await use(models, name)
        assert shelf.open == {"a", "c"}
        await models.close()

    assert run(work).events[:4] == ["load a", "load b", "close b", "load c"]


def test_without_a_budget_there_is_one_at_a_time() -> None:
    async def work(shelf: Shelf) -> None:
        models = Models([shelf.source("a"), shelf.source("b")])
        for name in "aba":
            await use(models, name)
            assert shelf.open == {name}
        await models.close()

    run(work)


def test_a_model_in_use_is_not_taken_away() -> None:
    async def work(shelf: Shelf) -> None:
        models = Models([shelf.source("a"), shelf.source("b")])
        async with models.lease("a") as runtime:
            waiting = asyncio.create_task(use(models, "b"))
            again = asyncio.create_task(use(models, "a"))
            await asyncio.sleep(0.05)
            assert not runtime.closed
            assert not waiting.done()
        await asyncio.gather(waiting, again)
        await models.close()

    events = run(work).events
    assert events[:3] == ["load a", "close a", "load b"]


def test_many_who_ask_for_different_models_are_all_served() -> None:
    async def work(shelf: Shelf) -> None:
        models = Models([shelf.source(name) for name in "abc"])
        async with asyncio.timeout(20):
            await asyncio.gather(*(use(models, name) for name in "abcbacabc" * 3))
        assert models.active_leases == 0
        await models.close()
        assert shelf.open == set()

    run(work)


def test_an_idle_model_is_unloaded_and_comes_back() -> None:
    async def work(shelf: Shelf) -> None:
        models = Models([shelf.source("a")], idle_seconds=0.05)
        watching = asyncio.create_task(models.unload_idle())
        async with models.lease("a") as runtime:
            await asyncio.sleep(0.2)
            assert not runtime.closed
        while shelf.open:
            await asyncio.sleep(0.01)
        await use(models, "a")
        watching.cancel()
        await models.close()

    assert run(work).events == ["load a", "close a", "load a", "close a"]


def test_who_leaves_while_a_model_loads_does_not_lose_it() -> None:
    async def work(shelf: Shelf) -> None:
        models = Models([shelf.source("a")])
        leaving = asyncio.create_task(use(models, "a"))
        await asyncio.sleep(0)
        leaving.cancel()
        await use(models, "a")
        await models.close()

    assert run(work).events == ["load a", "close a"]


def test_a_load_that_fails_is_told_and_tried_again() -> None:
    async def work(shelf: Shelf) -> None:
        whole, failures = shelf.source("a"), [MemoryBudgetError("too large")]

        def load() -> Runtime:
            if failures:
                raise failures.pop()
            return whole.load()

        models = Models([dataclasses.replace(whole, load=load)])
        with pytest.raises(MemoryBudgetError):
            await use(models, "a")
        await use(models, "a")
        await models.close()

    run(work)


def test_a_closed_server_loads_nothing() -> None:
    async def work(shelf: Shelf) -> None:
        models = Models([shelf.source("a")])
        await models.close()
        with pytest.raises(ApiError, match="shutting down"):
            await use(models, "a")

    assert run(work).events == []


def test_any_name_may_stand_for_the_first_model() -> None:
    shelf = Shelf()
    sources = [shelf.source("a"), shelf.source("b")]

    assert Models(sources).resolve(None) == ModelChoice("a")
    assert Models(sources, any_model=True).resolve("gpt-4") == ModelChoice("a")
    assert Models(sources, any_model=True).resolve("b") == ModelChoice("b")
    with pytest.raises(ApiError, match="this server has `a`, `b`"):
        Models(sources).resolve("gpt-4")
