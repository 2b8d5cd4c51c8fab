"""A loaded model in its engine thread: tokens in, logits out; adapters; its end.

What every model has that is in memory, without requests or generation (`runtime.py`).
All MLX work runs in the engine thread; returned arrays are evaluated.
"""

import atexit
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import EllipsisType
from typing import Any, Self, TypeVar
from weakref import WeakSet

import mlx.core as mx

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.engine.adapter_memory import adapter_dtype, loaded_ranks
from mlx_gptoss.engine.adapter_slots import as_argument
from mlx_gptoss.engine.guide_factory import GuideFactory
from mlx_gptoss.engine.interfaces import LanguageModel, TokenIds
from mlx_gptoss.engine.lazy_tokenizer import LazyTokenizer
from mlx_gptoss.engine.loaded_adapters import LoadedAdapters
from mlx_gptoss.engine.outputs import stop_reasons
from mlx_gptoss.engine.thread import EngineThread
from mlx_gptoss.engine.token_limits import check_ids, smallest_limit
from mlx_gptoss.errors import ConfigError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.memory import Plan, require_adapter_fit
from mlx_gptoss.memory.adapters import adapter_bytes
from mlx_gptoss.model.adapters import Adapter
from mlx_gptoss.model.experts.statistics import ExpertStatistics
from mlx_gptoss.model.experts.storage import ExpertStorage

T = TypeVar("T")

_open_models: "WeakSet[RuntimeBase]" = WeakSet()


@atexit.register
def close_all() -> None:
    """Close every model that is still open before the interpreter exits.

    Wired memory of a process that exits without this has stayed allocated until reboot.
    """
    for model in list(_open_models):
        model.close()


class RuntimeBase:
    """The base of `Runtime`: a model, its thread, its tokenizer and its adapters.

    The arguments are those of `Runtime`.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        config: ModelConfig | None,
        tokenizer: Tokenizer | Path | None,
        plan: Plan | None,
        storage: ExpertStorage | None,
        context: int | None,
        thread: EngineThread | None,
        dtype: mx.Dtype,
        digest: Callable[[], str],
    ) -> None:
        self._model: LanguageModel | None = model
        self._config = config
        self._tokenizer = LazyTokenizer(tokenizer)
        self._thread = thread or EngineThread("runtime")
        self.plan = plan
        self._storage = storage
        self.context = smallest_limit(
            context, config.max_position_embeddings if config else None
        )
        self._adapters = LoadedAdapters(self._thread, lambda: self.model, config, dtype)
        self._adapter_bytes = adapter_dtype(dtype).size  # of one value
        self._active: str | None = None
        self._weights_digest = digest
        _open_models.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def config(self) -> ModelConfig:
        """The model's configuration. Raises ConfigError if it was made without one."""
        if self._config is None:
            raise ConfigError("this runtime was made without a config: pass `config=`")
        return self._config

    @property
    def model(self) -> Any:
        """The model itself; compute with it only inside `run`.

        Raises GptOssError once the runtime is closed.
        """
        self._thread.check_open()
        return self._model

    @property
    def has_tokenizer(self) -> bool:
        """Whether there is a tokenizer to open."""
        return self._tokenizer.available

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, opened on first use.

        Raises CheckpointError if there is none or it cannot be opened.
        """
        return self._tokenizer.open()

    @property
    def guides(self) -> GuideFactory:
        """Creates guides, which keep an answer within its constraints.

        Raises PromptError if the vocabulary has no Harmony tokens.
        """
        return self._tokenizer.guides()

    @property
    def stop_tokens(self) -> dict[int, str]:
        """The token ids that end an answer, each with its finish reason."""
        named = self.tokenizer if self.has_tokenizer else None
        return stop_reasons(named, self._config.eos_token_ids if self._config else ())

    @property
    def stats(self) -> ExpertStatistics | None:
        """Counts and times of reading experts from disk; None if all are resident."""
        return self._storage.statistics() if self._storage else None

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """The adapters that are loaded, by name."""
        return self._adapters

    @property
    def adapter(self) -> str | None:
        """The name of the active adapter, which computes what names no other."""
        return self._active

    def use_adapter(self, name: str | None) -> None:
        """Make the adapter `name` the active one; None is the model without an adapter.

        Answers that have begun keep theirs. Raises ConfigError if it is not loaded.
        """
        self.require_adapter(name)
        self._active = name

    def require_adapter(self, name: str | None) -> None:
        """Raise ConfigError unless an adapter of this name is loaded; None is none."""
        self._adapters.require(name)

    def add_adapter(self, adapter: Adapter) -> None:
        """Add an adapter, or replace the one of its name, while requests run.

        Running requests keep theirs. Raises CheckpointError if it is another model's,
        and MemoryBudgetError if it does not fit beside this one.
        """
        plan = self.plan
        if plan is not None:
            others = [x for x in self._adapters.values() if x.name != adapter.name]
            plan = self._plan_with([*others, adapter], plan)
            require_adapter_fit(plan, adapter.name)
        self._adapters.add([adapter])
        if plan is not None:
            self.run(self._replan, plan)

    def remove_adapter(self, name: str) -> None:
        """Remove the adapter `name`; running requests keep it. Raises ConfigError."""
        self._adapters.remove(name)
        if self._active == name:
            self._active = None
        if self.plan is not None:
            left = list(self._adapters.values())
            self.run(self._replan, self._plan_with(left, self.plan))

    @property
    def digest(self) -> str:
        """A digest (hex) of what answers depend on: weights, adapters, precision.

        It covers a sample of the weights, and which adapter is active.
        """
        adapters = {name: one.digest for name, one in self.adapters.items()}
        parts = [self._weights_digest(), sorted(adapters.items()), self._active]
        parts.append(self._adapter_bytes)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def new_cache(self) -> Any:
        """Return an empty KV cache of one sequence, for `logits` and `generate`.

        Change it only inside `run`.
        """
        return self.run(self.model.make_cache)

    def logits(
        self,
        ids: TokenIds,
        cache: Any = None,
        *,
        adapter: str | EllipsisType | None = ...,
    ) -> mx.array:
        """Return the logits (L, V) float32 of all L positions, in one pass.

        V is the vocabulary size. With a cache from `new_cache`, `ids` continue what it
        holds, and it grows by L tokens. Peak: L * V * 4 bytes for the logits.
        `adapter` is as in `generate`.

        Raises PromptError if `ids` is empty or has an id outside the vocabulary.
        """
        ids = check_ids(ids, self._config)
        chosen = self._adapters.acquire(self._chosen(adapter))
        try:
            return self.run(self._logits, ids, cache, chosen)
        finally:
            self._adapters.release(chosen)

    def run(self, work: Callable[..., T], /, *args: Any, **options: Any) -> T:
        """Run `work(*args, **options)` in the engine thread and return its result.

        Only there may MLX be used with this model. Return Python values or evaluated
        arrays. Raises what `work` raises, and GptOssError once the runtime is closed.
        """
        return self._thread.call(work, *args, **options)

    def close(self) -> None:
        """End all generation and free the memory. Calling it again does nothing."""
        self._thread.close(self._release)

    @property
    def closed(self) -> bool:
        """Whether the runtime is closed."""
        return self._thread.closed

    def _chosen(self, adapter: str | EllipsisType | None) -> str | None:
        """Return the name of an adapter: the active one if none was chosen."""
        return self._active if isinstance(adapter, EllipsisType) else adapter

    def _release(self) -> None:
        """Free the memory: for the engine thread."""
        self._tokenizer.close()
        self._model = None
        if self._storage is not None:
            self._storage.close()
        mx.clear_cache()

    def _plan_with(self, adapters: Sequence[Adapter], plan: Plan) -> Plan:
        """Return the memory plan with these adapters instead of those it has."""
        ranks = [loaded_ranks(adapter) for adapter in adapters]
        size = adapter_bytes(self.config, ranks, float_bytes=self._adapter_bytes)
        return plan.with_adapters(size)

    def _replan(self, plan: Plan) -> None:
        """Leave what adapters take to them: for the engine thread."""
        self.plan = plan

    def _logits(self, ids: TokenIds, cache: Any, adapter: Adapter | None) -> mx.array:
        batch = mx.array([ids], mx.int32)  # (1, L)
        slot = as_argument([self._adapters.slot(adapter)])
        logits = self.model.logits(self.model.hidden(batch, cache, **slot), **slot)
        logits = logits[0].astype(mx.float32)  # (L, V)
        # Other threads can read the result only if it is evaluated here.
        mx.eval(logits, [] if cache is None else cache.arrays)
        return logits
