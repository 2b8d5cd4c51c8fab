"""A loaded model, callable from any thread: `load` it (`opening`), use it, `close` it.

    with load("openai/gpt-oss-20b") as runtime:
        for step in runtime.generate(runtime.tokenizer.encode("Once"), params):
            ...

All MLX work is done in the runtime's owner thread; arrays that come back are
evaluated. Knows token ids; conversations are `chat`'s.
"""

import atexit
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

import mlx.core as mx

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.engine.generate import Generation, generate, resolve_max_tokens
from mlx_gptoss.engine.guide_factory import GuideFactory
from mlx_gptoss.engine.interfaces import LanguageModel, OnProgress, TokenGuide, TokenIds
from mlx_gptoss.engine.outputs import stop_reasons
from mlx_gptoss.engine.prompt_cache import (
    BackgroundPrefill,
    CachedGeneration,
    CacheLease,
    CacheOptions,
    CacheSize,
    CacheStatistics,
    PromptCache,
    PromptFiles,
)
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.engine.scheduler import (
    BatchOptions,
    BatchStatistics,
    KVBudget,
    Request,
    Scheduler,
)
from mlx_gptoss.engine.scheduler.request import OnEnd, OnStep
from mlx_gptoss.engine.sequence import Sequence
from mlx_gptoss.engine.stream import Stream
from mlx_gptoss.engine.thread import MAX_IDLE_TASKS, EngineThread
from mlx_gptoss.errors import (
    CheckpointError,
    ConfigError,
    GptOssError,
    PromptError,
    StorageError,
)
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.file_names import TOKENIZER_FILE
from mlx_gptoss.memory import PREFILL_CHUNK, Plan
from mlx_gptoss.model.experts.statistics import ExpertStatistics
from mlx_gptoss.model.experts.storage import ExpertStorage

MESSAGE_ENDS = ("<|end|>", "<|return|>", "<|call|>")

log = logging.getLogger(__name__)
T = TypeVar("T")


_open_runtimes: "WeakSet[Runtime]" = WeakSet()


@atexit.register
def close_all() -> None:
    """Give memory back before the process goes, for those who did not close.

    Wired memory of a process that just ends has leaked until the next restart.
    """
    for runtime in list(_open_runtimes):
        runtime.close()


class Runtime:
    """A model and the thread that runs it.

    Any object with the methods of `generate.LanguageModel` can stand for the model.
    `tokenizer` may be a folder: it is opened on first use. `files` opens the part of
    the prompt cache that lies on disk, where `cache` asks for one.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        config: ModelConfig | None = None,
        tokenizer: Tokenizer | Path | None = None,
        plan: Plan | None = None,
        storage: ExpertStorage | None = None,
        context: int | None = None,
        thread: EngineThread | None = None,
        cache: CacheOptions | None = None,
        batch: BatchOptions | None = None,
        files: Callable[[CacheOptions], PromptFiles] | None = None,
    ) -> None:
        self._model: LanguageModel | None = model
        self._options = cache or CacheOptions()
        self._files = files
        self._opened_prompt_cache: PromptCache | None = None
        self._prepared: deque[list[int]] = deque(maxlen=MAX_IDLE_TASKS)
        self._config = config
        self._tokenizer = tokenizer
        self._tokenizer_lock = threading.Lock()
        self._guide_factory: GuideFactory | None = None
        self._thread = thread or EngineThread("runtime")
        self.plan = plan
        self._storage = storage
        _open_runtimes.add(self)
        longest = config.max_position_embeddings if config else None
        limits = [limit for limit in (context, longest) if limit is not None]
        self.context = min(limits, default=None)
        batch = batch or BatchOptions()
        self._scheduler = Scheduler(
            self._thread,
            lambda: self.model,
            self._prompt_cache,
            batch,
            KVBudget(config, plan, batch.kv_memory),
            chunk=plan.prefill_chunk if plan else PREFILL_CHUNK,
        )

    def __enter__(self) -> "Runtime":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def config(self) -> ModelConfig:
        if self._config is None:
            raise ConfigError("this runtime was made without a config: pass `config=`")
        return self._config

    @property
    def model(self) -> Any:
        """The model itself; compute with it only inside `run`."""
        self._thread.check_open()
        return self._model

    @property
    def has_tokenizer(self) -> bool:
        """Whether there is a tokenizer to open."""
        found = self._tokenizer
        if isinstance(found, Path):
            return (found / TOKENIZER_FILE).is_file()
        return found is not None

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, opened on first use. Raises CheckpointError if it cannot."""
        with self._tokenizer_lock:
            if isinstance(self._tokenizer, Path):
                self._tokenizer = Tokenizer.open(self._tokenizer)
            if self._tokenizer is None:
                raise CheckpointError(
                    "this runtime was made without a tokenizer: pass `tokenizer=`"
                )
            return self._tokenizer

    @property
    def guides(self) -> GuideFactory:
        """Makes what keeps an answer legal; raises PromptError without Harmony."""
        tokenizer = self.tokenizer
        tokenizer.require_harmony()
        with self._tokenizer_lock:
            self._guide_factory = self._guide_factory or GuideFactory(tokenizer)
            return self._guide_factory

    @property
    def stop_tokens(self) -> dict[int, str]:
        """The tokens that end an answer, and the finish reason each stands for."""
        named = self.tokenizer if self.has_tokenizer else None
        return stop_reasons(named, self._config.eos_token_ids if self._config else ())

    @property
    def stats(self) -> ExpertStatistics | None:
        """What reading experts from disk took so far; None if all are resident."""
        return self._storage.statistics() if self._storage else None

    def new_cache(self) -> Any:
        """Return an empty KV cache for one sequence. Change it only inside `run`."""
        return self.run(self.model.make_cache)

    def logits(self, ids: TokenIds, cache: Any = None) -> mx.array:
        """Return float32 logits (L, V) of every position, in one pass.

        With a cache, `ids` continue what it holds, and it grows by them.
        """
        ids = self._check_ids(ids)
        return self.run(self._logits, ids, cache)

    def generate(
        self,
        ids: TokenIds,
        params: SamplingParams | None = None,
        *,
        cache: Any = None,
        reuse: bool = False,
        stop_tokens: Mapping[int, str] | None = None,
        guide: TokenGuide | None = None,
        progress: OnProgress | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Stream:
        """Continue `ids`: an iterator of Steps with `.stats`; `close` ends it early.

        With a cache, `ids` continue what it holds. With `reuse`, they are the whole
        prompt, of which only what the prompt cache does not know is read, and what
        is read is kept there. `stop_tokens` replace the model's own; a `guide` (see
        `guides`) keeps the answer legal. `progress(done, total)` and `cancelled()` are
        called in the owner thread.
        """
        ids = self._check_ids(ids)
        stop = self.stop_tokens if stop_tokens is None else stop_tokens
        ended = threading.Event()

        def make(
            ids: TokenIds, cache: Any, on_computed: Callable[..., None] | None = None
        ) -> Generation:
            return generate(
                self.model,
                ids,
                params,
                stop_tokens=stop,
                guide=guide,
                cache=cache,
                context=self.context,
                chunk=self.plan.prefill_chunk if self.plan else PREFILL_CHUNK,
                progress=progress,
                cancelled=lambda: ended.is_set() or bool(cancelled and cancelled()),
                on_computed=on_computed,
            )

        def make_cached() -> CachedGeneration:
            resolve_max_tokens(len(ids), 0, self.context, None)
            return CachedGeneration(self._prompt_cache(), ids, make)

        work = make_cached if reuse else partial(make, ids, cache)
        return Stream(self._thread, self.run(work), ended.set)

    def submit(
        self,
        ids: TokenIds,
        params: SamplingParams | None = None,
        *,
        guide: TokenGuide | None = None,
        stop_tokens: Mapping[int, str] | None = None,
        on_step: OnStep,
        on_end: OnEnd,
        on_progress: OnProgress | None = None,
        shared: bool = False,
        group: object = None,
    ) -> Request:
        """Continue the prompt `ids` beside other requests, and return at once.

        All requests are computed together and share the prompt cache; each has the
        tokens it would have alone. In the owner thread, where they must not block,
        `on_progress(done, total)` is called after each chunk of the prompt,
        `on_step(step)` for each token, and `on_end(stats, error)` once and last,
        after `cancel` too. `shared` says that others ask for the same prompt, to
        read it once for all; those of one `request`, any object, count as one where
        requests wait. Raises PromptError for a prompt that cannot be served,
        MemoryBudgetError for one whose keys and values would never fit, and BusyError,
        which says when to try again, if it must wait and too many do.
        """
        ids = self._check_ids(ids)
        chosen = params or SamplingParams()
        stop = self.stop_tokens if stop_tokens is None else stop_tokens
        engine = self._scheduler
        engine.kv_budget.require_fit(len(ids))
        limits = [
            n
            for n in (self.context, engine.kv_budget.max_sequence_tokens)
            if n is not None
        ]
        limit = resolve_max_tokens(
            len(ids), 0, min(limits, default=None), chosen.max_tokens
        )

        def begin(request: Request, lease: CacheLease) -> Sequence:
            return Sequence(
                self.model,
                lease.cache,
                ids[lease.cached_tokens :],
                chosen,
                limit=limit,
                stop_tokens=stop,
                guide=guide,
                on_computed=lease.record,
                arrival_time=request.arrival_time,
            )

        request = Request(
            ids,
            begin,
            on_step=on_step,
            on_end=on_end,
            on_progress=on_progress,
            shared=shared,
            group=group,
        )
        self._thread.check_open()
        engine.submit(request)
        return request

    @property
    def batch_statistics(self) -> BatchStatistics:
        """What `submit` is doing and did; never waits for the model."""
        return self._scheduler.statistics

    def prepare(self, ids: TokenIds) -> "Future[None] | None":
        """Read `ids` ahead in idle time, for a prompt that will begin with them.

        What was read of them is written to disk, if prompts are kept there: then, or
        at the latest when the runtime closes. Returns when it is done, or None where
        reading ahead is not allowed or would not fit.
        """
        ids = self._check_ids(ids)
        self._prepared.append(ids)
        fits = self.context is None or len(ids) < self.context
        if not self._options.idle or not fits:
            return None
        work: list[
            BackgroundPrefill
        ] = []  # made in the owner thread: nobody waits here

        def step() -> bool:
            if not work:
                work.append(BackgroundPrefill(self.model, self._prompt_cache(), ids))
            return work[0].step()

        return self._thread.run_when_idle(step)

    @property
    def cache_statistics(self) -> CacheStatistics:
        """What the prompt cache did so far, and what it holds."""
        return self.run(lambda: self._prompt_cache().statistics)

    @property
    def cache_size(self) -> CacheSize:
        """Bytes of prompts in memory, and their bound; never waits for the model."""
        prompts = self._opened_prompt_cache
        held = prompts.resident_bytes if prompts is not None else 0
        return CacheSize(held, self._options.limit(self.plan))

    def clear_cache(self) -> None:
        """Forget the prompts that were read and are not in use; files stay."""
        self.run(lambda: self._prompt_cache().clear())

    def run(self, work: Callable[..., T], /, *args: Any, **options: Any) -> T:
        """Run `work` in the owner thread, where MLX may be used with this model.

        Return only Python values or evaluated arrays from it.
        """
        return self._thread.call(work, *args, **options)

    def drain(self, timeout: float | None = None) -> bool:
        """Take no more requests by `submit`, and wait until all of them have ended.

        Says whether they have; those that have not, after so many seconds, go on
        until `close`. Not to be called in the owner thread, which does their work.
        """
        return self._scheduler.drain(timeout)

    def close(self) -> None:
        """End what is running and give the memory back. Twice is once."""
        self._thread.close(self._release)

    @property
    def closed(self) -> bool:
        return self._thread.closed

    def _prompt_cache(self) -> PromptCache:
        """The prompt cache, made on first use. Only for the owner thread."""
        if self._opened_prompt_cache is None:
            specials = self.tokenizer.specials if self.has_tokenizer else {}
            self._opened_prompt_cache = PromptCache(
                self.model.make_cache,
                message_ends=[specials[n] for n in MESSAGE_ENDS if n in specials],
                limit=self._options.limit(self.plan),
                files=self._open_files(),
            )
        return self._opened_prompt_cache

    def _open_files(self) -> PromptFiles | None:
        """Open what is on disk; that it cannot be is no reason not to answer."""
        if self._files is None or not self._options.disk_bytes:
            return None
        try:
            return self._files(self._options)
        except StorageError as error:
            log.warning("prompts are not saved to disk: %s", error)
            return None

    def _release(self) -> None:
        closed = GptOssError("the model is closed: load it again to use it")
        self._scheduler.close(closed)
        for ids in self._prepared:  # there may have been no idle time to write them
            while (
                self._opened_prompt_cache is not None
                and self._opened_prompt_cache.save(ids)
            ):
                pass
        if self._guide_factory is not None:
            self._guide_factory.close()
        self._model = self._opened_prompt_cache = None
        if self._storage is not None:
            self._storage.close()
        mx.clear_cache()

    def _logits(self, ids: TokenIds, cache: Any) -> mx.array:
        batch = mx.array([ids], mx.int32)  # (1, L)
        logits = self.model.logits(self.model.hidden(batch, cache))
        logits = logits[0].astype(mx.float32)  # (L, V)
        # Other threads can read what comes back only if it is evaluated here.
        mx.eval(logits, [] if cache is None else cache.arrays)
        return logits

    def _check_ids(self, ids: TokenIds) -> list[int]:
        """Copy the ids; an id outside the vocabulary would read foreign memory."""
        ids = [int(token) for token in ids]
        if not ids:
            raise PromptError("the prompt is empty: give at least one token")
        rows = self._config.vocab_size if self._config else None
        wrong = [t for t in ids if t < 0 or (rows is not None and t >= rows)]
        if wrong:
            raise PromptError(
                f"token id {wrong[0]} is outside the vocabulary of {rows} tokens: "
                "encode the prompt with this model's own tokenizer"
            )
        return ids
