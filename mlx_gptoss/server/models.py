"""Models by name: loaded on demand, unloaded when idle or to make room.

    models = Models([ModelSource("demo", load_demo)], idle_seconds=600)
    async with models.lease("demo") as runtime: ...

Several models stay loaded if their memory plans fit together; otherwise the least
recently used is unloaded once its requests have finished. `BASE:NAME` is the model BASE
with its adapter NAME. Knows nothing of HTTP.
"""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from mlx_gptoss.api.errors import ApiError, draining, model_not_found
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.memory import Plan, format_bytes
from mlx_gptoss.server.adapters import AdapterFolder, FollowedAdapters
from mlx_gptoss.server.model_facts import ModelFacts, facts_of_runtime

log = logging.getLogger(__name__)

IDLE_CHECK_SECONDS = 1.0  # between checks for idle models


@dataclass(frozen=True)
class ModelSource:
    """A model that can be loaded: its public name and its loader.

    `plan` returns its memory plan without loading it; None if it has none. `adapters`
    are the names of those it is loaded with, and `adapter_folder` has more of them.
    `facts` describes it without loading it, if it is on this machine.
    """

    name: str
    load: Callable[[], Runtime]
    plan: Callable[[], Plan] | None = None
    adapters: Sequence[str] = ()
    adapter_folder: AdapterFolder | None = None
    facts: Callable[[], ModelFacts | None] | None = None


@dataclass(frozen=True)
class ModelChoice:
    """The model that a request is answered by, and its adapter, if any."""

    model: str
    adapter: str | None = None

    @property
    def name(self) -> str:
        """The name by which requests choose it."""
        return self.model if self.adapter is None else f"{self.model}:{self.adapter}"


@dataclass
class LoadedModel:
    """A model source and its runtime, if loaded.

    While a model is `evicting`, new requests wait until it has been loaded again.
    `waiters` are the futures of requests that wait for the model to load.
    `keep_seconds` is how long the latest request wants it to stay loaded, if it says.
    """

    source: ModelSource
    runtime: Runtime | None = None
    followed: FollowedAdapters | None = None
    loading: "asyncio.Task[None] | None" = None
    evicting: bool = False
    waiters: "list[asyncio.Future[Runtime]]" = field(default_factory=list)
    leases: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    last_used: float = field(default_factory=time.monotonic)
    keep_seconds: float | None = None
    facts: ModelFacts | None = None

    def acquire(self) -> Runtime:
        assert self.runtime is not None
        self.leases += 1
        self.idle.clear()
        return self.runtime

    def release(self) -> None:
        self.last_used = time.monotonic()
        self.end_use()

    def end_use(self) -> None:
        self.leases -= 1
        if not self.leases:
            self.idle.set()

    def start(self, runtime: Runtime) -> None:
        """Register the runtime of the source, which has just been loaded."""
        folder = self.source.adapter_folder
        given = self.source.adapters
        self.followed = None if folder is None else folder.follow(runtime, given)
        self.runtime = runtime
        self.idle.set()

    @property
    def adapters(self) -> Iterable[str]:
        """The names of its adapters: the loaded ones, or those it would have."""
        if self.runtime is not None:
            return self.runtime.adapters
        folder = self.source.adapter_folder
        return [*self.source.adapters, *(folder.list() if folder else ())]

    @property
    def planned_bytes(self) -> int:
        plan = self.runtime.plan if self.runtime else None
        return plan.total_bytes if plan else 0


class Models:
    """The models of one server. Not thread-safe: for one event loop.

    `budget` is the memory in bytes for all of them; None keeps one model at a time.
    """

    def __init__(
        self,
        sources: Sequence[ModelSource],
        *,
        idle_seconds: float | None = None,
        any_model: bool = False,
        budget: int | None = None,
    ) -> None:
        self._entries = {one.name: LoadedModel(one) for one in sources}
        self._idle_seconds = idle_seconds
        self._any_model = any_model
        self._budget = budget
        self._change_lock = asyncio.Lock()  # one load or unload at a time
        self._closed = False
        self.created = int(time.time())

    @classmethod
    def of(cls, runtime: Runtime, name: str) -> "Models":
        """Serve one runtime that is already loaded; `close` closes it."""
        models = cls([ModelSource(name, lambda: runtime)])
        models.adopt(name, runtime)
        return models

    @property
    def names(self) -> list[str]:
        return list(self._entries)

    @property
    def choices(self) -> list[ModelChoice]:
        """All that requests may name: models, each followed by its adapters."""
        return [
            ModelChoice(name, adapter)
            for name, entry in self._entries.items()
            for adapter in (None, *sorted(entry.adapters))
        ]

    @property
    def loaded(self) -> list[str]:
        return [name for name in self._entries if self.runtime(name)]

    @property
    def active_leases(self) -> int:
        """The number of leases held on all models."""
        return sum(entry.leases for entry in self._entries.values())

    def runtime(self, name: str) -> Runtime | None:
        """Return the runtime of a model, or None if it is not loaded."""
        return self._entries[name].runtime

    def adopt(self, name: str, runtime: Runtime) -> None:
        """Register a runtime that was loaded elsewhere, as at startup."""
        self._entries[name].start(runtime)
        log_loaded(name, runtime)

    def add(self, source: ModelSource) -> None:
        """Serve one more model, if there is none of its name."""
        self._entries.setdefault(source.name, LoadedModel(source))

    def resolve(self, name: str | None) -> ModelChoice:
        """Return the model and adapter of a request; raises ApiError (404).

        What follows the last colon is an adapter only if the model has one of that
        name: otherwise the whole is a model's name, as `gpt-oss:20b`.
        """
        if name in self._entries:
            return ModelChoice(name)
        base, colon, adapter = (name or "").rpartition(":")
        known = base if base in self._entries else self.names[0]
        named = colon and (known == base or self._any_model)
        if named and adapter in self._entries[known].adapters:
            return ModelChoice(known, adapter)
        if name is None or self._any_model:
            return ModelChoice(self.names[0])
        raise self.not_found(name)

    def not_found(self, name: str) -> ApiError:
        """Return the error for a model or an adapter that is not there."""
        return model_not_found(name, [choice.name for choice in self.choices])

    async def refresh_adapters(self) -> None:
        """Look through the folders of adapters of the loaded models again."""
        for entry in self._entries.values():
            if entry.followed is None or entry.runtime is None or entry.evicting:
                continue
            entry.acquire()  # it is not unloaded meanwhile, nor counts as used
            try:
                await asyncio.to_thread(entry.followed.refresh)
            finally:
                entry.end_use()

    @asynccontextmanager
    async def lease(self, name: str | None) -> AsyncIterator[Runtime]:
        """Load a model if needed and keep it loaded while the block runs."""
        entry = self._entries[self.resolve(name).model]
        runtime = await self._acquire(entry)
        entry.keep_seconds = None
        try:
            yield runtime
        finally:
            entry.release()

    def keep(self, name: str, seconds: float | None) -> None:
        """Keep a model loaded for `seconds` after its last request, or forever (inf).

        That holds until the next request for the model; None leaves it to the operator.
        """
        self._entries[self.resolve(name).model].keep_seconds = seconds

    def seconds_left(self, name: str) -> float | None:
        """Return in how many seconds an unused model is unloaded; None for never."""
        entry = self._entries[name]
        limit = self._idle_limit(entry)
        if limit is None or math.isinf(limit):
            return None
        used = time.monotonic() - entry.last_used if not entry.leases else 0.0
        return max(limit - used, 0.0)

    async def facts(self, name: str) -> ModelFacts:
        """Describe a model, loaded or not; little is known of one not downloaded."""
        entry = self._entries[name]
        if entry.facts is None:
            read, found = entry.source.facts, None
            if read is not None:
                found = await asyncio.to_thread(read)
            elif entry.runtime is not None:
                found = facts_of_runtime(entry.runtime)
            if found is None:
                return ModelFacts()
            entry.facts = found
        return entry.facts

    def context_length(self, name: str, facts: ModelFacts) -> int | None:
        """Return the most tokens of a conversation, as far as that is known."""
        runtime = self._entries[name].runtime
        if runtime is not None:
            return runtime.longest_sequence
        return facts.config.max_position_embeddings if facts.config else None

    async def load(self, name: str) -> None:
        """Load a model, if it is not."""
        async with self.lease(name):
            pass

    async def unload(self, name: str) -> None:
        """Unload a model now, or once its running requests have ended."""
        entry = self._entries[self.resolve(name).model]
        entry.keep_seconds = 0.0
        await self._unload_if_idle(entry)

    async def unload_idle(self) -> None:
        """Unload models that were not used for long enough; runs until cancelled."""
        while True:
            await asyncio.sleep(min(IDLE_CHECK_SECONDS, self._idle_seconds or 1.0))
            for entry in list(self._entries.values()):
                await self._unload_if_idle(entry)

    async def close(self) -> None:
        """Unload all models; running requests end."""
        self._closed = True
        async with self._change_lock:
            for entry in self._entries.values():
                await self._unload(entry)

    async def _unload_if_idle(self, entry: LoadedModel) -> None:
        if self._is_idle(entry):
            async with self._change_lock:
                if self._is_idle(entry):
                    await self._unload(entry)

    def _idle_limit(self, entry: LoadedModel) -> float | None:
        """Return the seconds after which an unused model is unloaded."""
        asked = entry.keep_seconds
        return self._idle_seconds if asked is None else asked

    def _is_idle(self, entry: LoadedModel) -> bool:
        limit = self._idle_limit(entry)
        if entry.runtime is None or entry.leases or limit is None:
            return False
        return time.monotonic() - entry.last_used >= limit

    async def _acquire(self, entry: LoadedModel) -> Runtime:
        if entry.runtime is not None and not entry.evicting:
            return entry.acquire()
        waiter: asyncio.Future[Runtime] = asyncio.get_running_loop().create_future()
        entry.waiters.append(waiter)
        if entry.loading is None:
            entry.loading = asyncio.create_task(self._load(entry))
        try:
            return await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled() and waiter.exception() is None:
                entry.release()  # loaded after the client gave up
            raise

    async def _load(self, entry: LoadedModel) -> None:
        """Load a model and lease it to all waiters before it can be evicted again.

        A client that disconnects does not stop this: the next one will want the model.
        """
        try:
            async with self._change_lock:
                if self._closed:
                    raise draining()
                await self._make_room(entry)
                runtime = await asyncio.to_thread(entry.source.load)
                entry.last_used = time.monotonic()
                entry.start(runtime)
                log_loaded(entry.source.name, runtime)
                for waiter in entry.waiters:
                    if not waiter.done():
                        waiter.set_result(entry.acquire())
        except Exception as error:  # raised in every waiting request
            for waiter in entry.waiters:
                if not waiter.done():
                    waiter.set_exception(error)
        finally:
            entry.waiters.clear()
            entry.loading = None

    async def _make_room(self, wanted: LoadedModel) -> None:
        """Unload other models, least recently used first, until `wanted` fits."""
        others = [one for one in self._entries.values() if one.runtime is not None]
        others.sort(key=lambda one: one.last_used)
        needed = await self._planned_bytes(wanted) if others and self._budget else None
        for one in others:
            held = sum(
                entry.planned_bytes for entry in others if entry.runtime is not None
            )
            if needed is not None and held + needed <= (self._budget or 0):
                return
            one.evicting = True
            try:
                await one.idle.wait()
                await self._unload(one)
            finally:
                one.evicting = False

    async def _planned_bytes(self, entry: LoadedModel) -> int | None:
        plan = entry.source.plan
        return (await asyncio.to_thread(plan)).total_bytes if plan else None

    async def _unload(self, entry: LoadedModel) -> None:
        runtime, entry.runtime, entry.followed = entry.runtime, None, None
        if runtime is not None:
            await asyncio.to_thread(runtime.close)
            log.info("unloaded `%s`", entry.source.name)


def log_loaded(name: str, runtime: Runtime) -> None:
    limit = format_bytes(runtime.cache_size.limit)
    log.info("loaded `%s`; its prompt cache may take %s", name, limit)
    for adapter in runtime.adapters:
        log.info("loaded its adapter `%s`", adapter)
