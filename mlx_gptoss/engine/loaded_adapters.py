"""The adapters of a loaded model: added, found by name and removed while it runs.

    adapters = LoadedAdapters(thread, model, config)
    adapters.add([adapter])                  # any thread
    adapter = adapters.acquire("french")     # a request keeps it ...
    slot = adapters.slot(adapter)            # ... and is computed with it, until
    adapters.release(adapter)

The model computes with a stack of all adapters in use. A change prepares another stack
in a thread of its own and exchanges it between two passes, so that running requests do
not wait; they keep the adapter that they started with, even if its name means another
one by then.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from mlx_gptoss.engine.adapter_memory import adapter_dtype
from mlx_gptoss.engine.adapter_slots import NO_SLOT
from mlx_gptoss.engine.thread import EngineThread
from mlx_gptoss.errors import ConfigError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.layout import Structure
from mlx_gptoss.model.adapters import Adapter, AdapterStack, LowRank
from mlx_gptoss.model.adapters.stack import ArrangedUpdates

ByDigest = dict[str, Adapter]


class LoadedAdapters(Mapping[str, Adapter]):
    """The adapters by name. Usable in any thread, except `slot`.

    `model` returns the model, which has `set_adapters` and computes in `dtype`.
    """

    def __init__(
        self,
        thread: EngineThread,
        model: Callable[[], Any],
        config: ModelConfig | None,
        dtype: mx.Dtype,
    ) -> None:
        self._thread = thread
        self._model = model
        self._config = config
        self._dtype = adapter_dtype(dtype)
        self._lock = threading.RLock()  # a collected Stream may release at any time
        self._by_name: dict[str, Adapter] = {}
        self._users: Counter[str] = Counter()  # requests by digest
        self._stacked: ByDigest = {}  # what the model computes with
        self._slots: dict[str, int] = {}  # by digest

    def __getitem__(self, name: str) -> Adapter:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._by_name))

    def __len__(self) -> int:
        return len(self._by_name)

    def require(self, name: str | None) -> Adapter | None:
        """Return an adapter by name, None for none. Raises ConfigError."""
        if name is None:
            return None
        adapter = self._by_name.get(name)
        if adapter is None:
            known = ", ".join(f"`{one}`" for one in self) or "none"
            raise ConfigError(
                f"no adapter `{name}` is loaded: this model has {known}; load it with "
                "`--adapter` or `load(..., adapters=[...])`"
            )
        return adapter

    def acquire(self, name: str | None) -> Adapter | None:
        """Return an adapter and keep it in the model until `release`."""
        with self._lock:
            adapter = self.require(name)
            if adapter is not None:
                self._users[adapter.digest] += 1
            return adapter

    def release(self, adapter: Adapter | None) -> None:
        """Give back what `acquire` returned."""
        if adapter is not None:
            with self._lock:
                self._users[adapter.digest] -= 1

    def slot(self, adapter: Adapter | None) -> int:
        """Return the slot of an acquired adapter. Only in the engine thread."""
        return NO_SLOT if adapter is None else self._slots[adapter.digest]

    def add(self, adapters: Sequence[Adapter]) -> None:
        """Add adapters, or replace those of the same names.

        Peak: the stacks before and after the change. Raises CheckpointError for one
        that does not fit the model.
        """
        for adapter in adapters:  # lazy arrays belong to the thread that made them
            mx.eval([(one.a, one.b) for one in adapter.updates.values()])
        thread = EngineThread("preparing adapters")
        try:
            adapters = [thread.call(converted, one, self._dtype) for one in adapters]
            while not self._change(adapters, thread):
                pass  # another caller has changed them meanwhile
        finally:
            thread.close()

    def remove(self, name: str) -> None:
        """Remove an adapter by name; running requests keep it. Raises ConfigError.

        Its memory is freed now, or with the next change after its last request.
        """
        with self._lock:
            self.require(name)
            del self._by_name[name]
        self.add(())

    def _wanted(self, added: Sequence[Adapter]) -> ByDigest:
        """Return what must be in the stack: named adapters, new ones, those in use."""
        with self._lock:
            named = {**self._by_name, **{one.name: one for one in added}}
            used = [x for x in self._stacked.values() if self._users[x.digest] > 0]
            return {one.digest: one for one in (*named.values(), *used)}

    def _change(self, added: Sequence[Adapter], thread: EngineThread) -> bool:
        """Prepare a stack and exchange it; False if something else is wanted by then.

        Adapters are known to the stack by their digests: two of one name may be in it.
        """
        wanted = self._wanted(added)
        prepared = None
        if wanted.keys() != self._stacked.keys():
            prepared = thread.call(self._prepare, wanted)
        return self._thread.call(self._exchange, prepared, wanted, added)

    def _prepare(self, wanted: ByDigest) -> "PreparedAdapters":
        """Stack adapters for the model; evaluates all that it will compute with."""
        if self._config is None:
            raise ConfigError("this runtime was made without a config: pass `config=`")
        named = [replace(one, name=digest) for digest, one in wanted.items()]
        stack = AdapterStack(self._config, named, dtype=self._dtype)
        updates = stack.arrange(self._model().structure)
        modules = [one for layer in updates.layers().values() for one in layer.values()]
        parts = [part for one in modules for part in one.parts if part is not None]
        # Views of the stack that were left lazy would belong to this thread.
        mx.eval([(part.a, part.b) for part in parts])
        return PreparedAdapters(stack, updates)

    def _exchange(
        self,
        prepared: "PreparedAdapters | None",
        wanted: ByDigest,
        added: Sequence[Adapter],
    ) -> bool:
        """Give a stack to the model, and names to what was added. Engine thread."""
        with self._lock:
            if not self._wanted(added).keys() <= wanted.keys():
                return False
            if prepared is not None:
                self._model().set_adapters(prepared if wanted else None)
                self._slots = {one: prepared.stack.slot(one) for one in wanted}
                self._stacked = wanted
            self._by_name |= {one.name: one for one in added}
            return True


@dataclass(frozen=True)
class PreparedAdapters:
    """A stack that was arranged ahead, so that the model takes it at once."""

    stack: AdapterStack
    updates: ArrangedUpdates

    def arrange(self, structure: Structure) -> ArrangedUpdates:
        """Return the updates of the stack, which are those of the same structure."""
        return self.updates


def converted(adapter: Adapter, dtype: mx.Dtype) -> Adapter:
    """Return an adapter in a dtype, evaluated, so that its stack shares its arrays."""
    updates = {
        path: LowRank(update.a.astype(dtype), update.b.astype(dtype))
        for path, update in adapter.updates.items()
    }
    mx.eval([(update.a, update.b) for update in updates.values()])
    return replace(adapter, updates=updates)
