"""Models by name: loaded when they are asked for, unloaded when idle or in the way.

    models = Models([Source("demo", load_demo)], idle_seconds=600)
    async with models.lease("demo") as runtime: ...

Several stay loaded where their plans fit the memory together; otherwise the one used
longest ago makes room once its requests have ended. Knows nothing of HTTP.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from mlx_gptoss.api.errors import draining, model_not_found
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.memory import Plan, format_bytes

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # between two looks for models that are idle


@dataclass(frozen=True)
class Source:
    """A model that can be loaded: its public name, and how.

    `plan` says what it takes without loading it; None where nobody knows.
    """

    name: str
    load: Callable[[], Runtime]
    plan: Callable[[], Plan] | None = None


@dataclass
class Entry:
    """A source and what is loaded of it.

    A model that is `leaving` makes room for another: who asks for it now has it
    loaded again after that. `hopes` are of those who wait for it to be loaded.
    """

    source: Source
    runtime: Runtime | None = None
    loading: "asyncio.Task[None] | None" = None
    leaving: bool = False
    hopes: "list[asyncio.Future[Runtime]]" = field(default_factory=list)
    leases: int = 0
    unused: asyncio.Event = field(default_factory=asyncio.Event)
    used: float = field(default_factory=time.monotonic)

    def take(self) -> Runtime:
        assert self.runtime is not None
        self.leases += 1
        self.unused.clear()
        return self.runtime

    def give_back(self) -> None:
        self.leases -= 1
        self.used = time.monotonic()
        if not self.leases:
            self.unused.set()

    @property
    def bytes(self) -> int:
        plan = self.runtime.plan if self.runtime else None
        return plan.total_bytes if plan else 0


class Models:
    """The models of one server. Use it in one event loop.

    `budget` is how many bytes all together may take; None: one model at a time.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        idle_seconds: float | None = None,
        any_model: bool = False,
        budget: int | None = None,
    ) -> None:
        self._entries = {one.name: Entry(one) for one in sources}
        self._idle_seconds = idle_seconds
        self._any_model = any_model
        self._budget = budget
        self._moving = asyncio.Lock()  # one model comes or goes at a time
        self._closed = False
        self.created = int(time.time())

    @classmethod
    def of(cls, runtime: Runtime, name: str) -> "Models":
        """Serve one runtime that was loaded elsewhere; `close` closes it."""
        models = cls([Source(name, lambda: runtime)])
        models.adopt(name, runtime)
        return models

    @property
    def names(self) -> list[str]:
        return list(self._entries)

    @property
    def loaded(self) -> list[str]:
        return [name for name in self._entries if self.runtime(name)]

    @property
    def in_use(self) -> int:
        """How many leases there are."""
        return sum(entry.leases for entry in self._entries.values())

    def runtime(self, name: str) -> Runtime | None:
        """The runtime of a model if it is loaded."""
        return self._entries[name].runtime

    def adopt(self, name: str, runtime: Runtime) -> None:
        """Take a model that was loaded elsewhere, as at the start."""
        entry = self._entries[name]
        entry.runtime = runtime
        entry.unused.set()
        log_loaded(name, runtime)

    def resolve(self, name: str | None) -> str:
        """Return the name of the model that is meant; raises ApiError (404)."""
        if name in self._entries:
            return name
        if name is None or self._any_model:
            return self.names[0]
        raise model_not_found(name, self.names)

    @asynccontextmanager
    async def lease(self, name: str | None) -> AsyncIterator[Runtime]:
        """Keep a model loaded for as long as the block runs."""
        entry = self._entries[self.resolve(name)]
        runtime = await self._borrowed(entry)
        try:
            yield runtime
        finally:
            entry.give_back()

    async def watch(self) -> None:
        """Unload what nobody has used for `idle_seconds`, for ever."""
        while self._idle_seconds is not None:
            await asyncio.sleep(min(LOOK_SECONDS, self._idle_seconds))
            for entry in self._entries.values():
                if self._is_idle(entry):
                    async with self._moving:
                        if self._is_idle(entry):
                            await self._unload(entry)

    async def close(self) -> None:
        """Unload everything; what still runs is ended."""
        self._closed = True
        async with self._moving:
            for entry in self._entries.values():
                await self._unload(entry)

    def _is_idle(self, entry: Entry) -> bool:
        if entry.runtime is None or entry.leases or self._idle_seconds is None:
            return False
        return time.monotonic() - entry.used >= self._idle_seconds

    async def _borrowed(self, entry: Entry) -> Runtime:
        if entry.runtime is not None and not entry.leaving:
            return entry.take()
        hope: asyncio.Future[Runtime] = asyncio.get_running_loop().create_future()
        entry.hopes.append(hope)
        if entry.loading is None:
            entry.loading = asyncio.create_task(self._load(entry))
        try:
            return await hope
        except asyncio.CancelledError:
            if not hope.cancelled() and hope.exception() is None:
                entry.give_back()  # it came too late
            raise

    async def _load(self, entry: Entry) -> None:
        """Load a model, and lend it at once to all who wait: others may want its room.

        A client that leaves does not stop this: the next one will want the model.
        """
        try:
            async with self._moving:
                if self._closed:
                    raise draining()
                await self._make_room(entry)
                entry.runtime = await asyncio.to_thread(entry.source.load)
                entry.used = time.monotonic()
                entry.unused.set()
                log_loaded(entry.source.name, entry.runtime)
                for hope in entry.hopes:
                    if not hope.done():
                        hope.set_result(entry.take())
        except Exception as error:  # told to all who wait
            for hope in entry.hopes:
                if not hope.done():
                    hope.set_exception(error)
        finally:
            entry.hopes.clear()
            entry.loading = None

    async def _make_room(self, wanted: Entry) -> None:
        """Unload others until `wanted` fits, those used longest ago first."""
        others = [one for one in self._entries.values() if one.runtime is not None]
        others.sort(key=lambda one: one.used)
        needed = await self._needed(wanted) if others and self._budget else None
        for one in others:
            held = sum(entry.bytes for entry in others if entry.runtime is not None)
            if needed is not None and held + needed <= (self._budget or 0):
                return
            one.leaving = True
            try:
                await one.unused.wait()
                await self._unload(one)
            finally:
                one.leaving = False

    async def _needed(self, entry: Entry) -> int | None:
        plan = entry.source.plan
        return (await asyncio.to_thread(plan)).total_bytes if plan else None

    async def _unload(self, entry: Entry) -> None:
        runtime, entry.runtime = entry.runtime, None
        if runtime is not None:
            await asyncio.to_thread(runtime.close)
            log.info("unloaded `%s`", entry.source.name)


def log_loaded(name: str, runtime: Runtime) -> None:
    limit = format_bytes(runtime.cache_size.limit)
    log.info("loaded `%s`; prompts that were read may take %s of memory", name, limit)
