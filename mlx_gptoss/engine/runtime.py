"""Runtime: a loaded model that answers requests, and that any thread may call.

    with load("openai/gpt-oss-20b") as runtime:
        for step in runtime.generate(runtime.tokenizer.encode("Once"), params):
            ...

All MLX work runs in the engine thread of the runtime; returned arrays are evaluated.
Token ids only: conversations are in `chat`.
"""

from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import EllipsisType
from typing import Any

import mlx.core as mx

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.engine.interfaces import LanguageModel, OnProgress, TokenGuide, TokenIds
from mlx_gptoss.engine.outputs import Step
from mlx_gptoss.engine.prompt_cache import (
    CacheOptions,
    CacheSize,
    CacheStatistics,
    LazyPromptCache,
    PromptFiles,
)
from mlx_gptoss.engine.prompt_cache.known_prompts import NO_ADAPTER
from mlx_gptoss.engine.prompt_logprobs import PromptLogprobs
from mlx_gptoss.engine.runtime_base import RuntimeBase
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.engine.scheduler import (
    BatchOptions,
    BatchStatistics,
    Generation,
    KVBudget,
    Request,
    Scheduler,
)
from mlx_gptoss.engine.scheduler.idle_work import MAX_IDLE_TASKS
from mlx_gptoss.engine.scheduler.request import OnEnd, OnPrompt
from mlx_gptoss.engine.stream import StepQueue, Stream
from mlx_gptoss.engine.thread import EngineThread
from mlx_gptoss.engine.token_limits import (
    check_ids,
    resolve_max_tokens,
    smallest_limit,
)
from mlx_gptoss.errors import (
    GptOssError,
)
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.memory import PREFILL_CHUNK, Plan
from mlx_gptoss.model.experts.storage import ExpertStorage

MESSAGE_ENDS = ("<|end|>", "<|return|>", "<|call|>")

RUN_AHEAD = 64  # steps that `generate` computes ahead of its reader


class Runtime(RuntimeBase):
    """A loaded model: token ids in, logits or Steps out. Use `load` to make one.

    Every method may be called in any thread; the work runs in one engine thread, and
    returned arrays are evaluated. `close`, or leaving a `with` block, frees the memory.

    Attributes:
        plan: the memory plan (bytes by part, storage of the experts), or None.
        context: most tokens of prompt and answer together, or None without a limit.

    Arguments:
        model: any object with the methods of `interfaces.LanguageModel`.
        config: the model's configuration.
        tokenizer: a tokenizer, or a folder to open one from on first use.
        plan: the memory plan it was loaded by.
        storage: storage of experts on disk, closed with the runtime.
        context: limits prompt and answer, in tokens.
        thread: the engine thread that loaded the model; None makes one.
        cache: limits of the prompt cache.
        batch: limits of `submit`.
        files: opens the part of the prompt cache on disk, if `cache` asks for one.
        dtype: what the model computes in; adapters are kept in it.
        digest: returns a digest (hex) of the weights.
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
        dtype: mx.Dtype = mx.float32,
        digest: Callable[[], str] = lambda: "",
    ) -> None:
        super().__init__(
            model,
            config=config,
            tokenizer=tokenizer,
            plan=plan,
            storage=storage,
            context=context,
            thread=thread,
            dtype=dtype,
            digest=digest,
        )
        self._options = cache or CacheOptions()
        batch = batch or BatchOptions()
        self._scheduler = Scheduler(
            self._thread,
            lambda: self.model,
            LazyPromptCache(
                lambda: self.model,
                self._options,
                plan,
                message_ends=self._message_ends,
                open_files=files,
                max_prepared=MAX_IDLE_TASKS,
            ),
            batch,
            KVBudget(config, plan, batch.kv_memory),
            self._adapters,
            chunk=plan.prefill_chunk if plan else PREFILL_CHUNK,
        )

    @property
    def longest_sequence(self) -> int | None:
        """The most tokens of a prompt and its answer together; None is unlimited.

        It is the context, or what fits into the memory for keys and values.
        """
        return smallest_limit(
            self.context, self._scheduler.kv_budget.max_sequence_tokens
        )

    def prompt_logprobs(
        self,
        ids: TokenIds,
        top: int = 0,
        *,
        adapter: str | EllipsisType | None = ...,
    ) -> PromptLogprobs:
        """Return the log-probability of each token of a prompt but the first.

        `top` is how many of the most likely tokens are reported beside each, 0 to 20.
        Computed in chunks, in a batch with other requests, so memory is bounded for
        prompts of any length. `adapter` is as in `generate`.

        Raises what `generate` raises.
        """
        params = SamplingParams(max_tokens=0, prompt_logprobs=top)
        with self.generate(ids, params, adapter=adapter) as steps:
            list(steps)
            found = steps.prompt_logprobs
        assert found is not None
        return found

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
        adapter: str | EllipsisType | None = ...,
    ) -> Stream:
        """Generate after the prompt `ids`: an iterator of Steps, one per token.

        The result has `.stats` (Statistics) and, if asked for by `params`,
        `.prompt_logprobs` (PromptLogprobs); its `close` ends generation early. It may
        be read in any thread. Up to 64 steps are computed ahead of the reader, in a
        batch with other requests, for which it waits if they fill the batch.

        params: sampling settings; None takes the defaults of SamplingParams.
        cache: a KV cache from `new_cache`; `ids` continue what it holds. It belongs to
            the stream until that ends; each step is computed when it is asked for.
        reuse: use the prompt cache: prefill only what it does not hold, and keep the
            rest there. Then `ids` are the whole prompt and `cache` is ignored.
        stop_tokens: token id -> finish reason, instead of the model's own.
        guide: keeps the answer within constraints (see `guides`).
        progress(done, total): called after each prefill chunk, in prompt tokens.
        cancelled(): generation ends as `cancelled` when it returns True.
        adapter: the name of the adapter that answers; None is the model without one.
            Left out, it is the active one (see `use_adapter`). A `cache` holds what one
            adapter computed: continue it with the same.

        Both callbacks run in the engine thread, and `cancelled` also in the reader's;
        they must not block.

        Raises PromptError if the prompt is empty, has an id outside the vocabulary, or
        fills the context; MemoryBudgetError if its keys and values do not fit in
        memory; ConfigError for an adapter that is not loaded; NonFiniteError, while
        iterating, for logits that are not finite.
        """
        pinned = None if reuse else cache
        steps = StepQueue()
        request = self._request(
            ids,
            params,
            stop_tokens,
            guide=guide,
            on_step=steps.put,
            on_end=steps.end,
            on_prompt=steps.set_prompt,
            on_progress=progress,
            cancelled=cancelled,
            adapter=adapter,
            cache=pinned,
            keep=reuse,
            patient=True,
            run_ahead=RUN_AHEAD if pinned is None else 0,
        )
        return Stream(self._scheduler, request, steps)

    def submit(
        self,
        ids: TokenIds,
        params: SamplingParams | None = None,
        *,
        guide: TokenGuide | None = None,
        stop_tokens: Mapping[int, str] | None = None,
        on_step: Callable[[Step], None],
        on_end: OnEnd,
        on_prompt: OnPrompt | None = None,
        on_progress: OnProgress | None = None,
        shared: bool = False,
        group: object = None,
        run_ahead: int | None = None,
        adapter: str | EllipsisType | None = ...,
    ) -> Generation:
        """Generate after the prompt `ids` in a batch with others; return at once.

        Requests share the prompt cache; each gets the tokens it would get alone.

        params, guide, stop_tokens: as in `generate`.
        on_step(step): called for each token.
        on_end(stats, error): called once and last, also after `cancel`.
        on_prompt(logprobs): called with PromptLogprobs once the prompt is read, if
            `params.prompt_logprobs` asks for them.
        on_progress(done, total): called after each prefill chunk, in prompt tokens.
        shared: other requests have the same prompt, so that it is prefilled once.
        group: any object; requests of one group count as one in the queue.
        run_ahead: most steps computed ahead of those that `Generation.read` was told;
            a request further ahead leaves the batch meanwhile. None: without bound.
        adapter: as in `generate`. Requests of different adapters are one batch.

        The callbacks run in the engine thread and must not block.

        Raises PromptError for a prompt that is empty or does not fit the context,
        ConfigError for an adapter that is not loaded, MemoryBudgetError if its keys and
        values could never fit, and BusyError, with the seconds until a retry, if the
        queue is full.
        """
        request = self._request(
            ids,
            params,
            stop_tokens,
            guide=guide,
            on_step=lambda step, stats: on_step(step),
            on_end=on_end,
            on_prompt=on_prompt,
            on_progress=on_progress,
            shared=shared,
            group=group,
            run_ahead=run_ahead,
            adapter=adapter,
        )
        return self._scheduler.submit(request)

    def call_in_loop(
        self, loop: AbstractEventLoop, call: Callable[..., object], *arguments: Any
    ) -> None:
        """Call `call(*arguments)` in an event loop, from any thread; return at once.

        From the callbacks of `submit`, `loop` is woken once for all steps of a pass.
        Does nothing if it is closed.
        """
        self._scheduler.call_in_loop(loop, call, *arguments)

    def _request(
        self,
        ids: TokenIds,
        params: SamplingParams | None,
        stop_tokens: Mapping[int, str] | None,
        *,
        adapter: str | EllipsisType | None,
        cache: Any = None,
        **options: Any,
    ) -> Request:
        """Return a request.

        The context, and the memory for keys and values, limit what its cache holds,
        prompt and answer together.
        """
        self._thread.check_open()
        params = params or SamplingParams()
        ids = check_ids(ids, self._config)
        cached = 0 if cache is None else cache.offset
        self._scheduler.kv_budget.require_fit(
            cached + len(ids), scoring=params.prompt_logprobs is not None
        )
        chosen = self._chosen(adapter)
        self._adapters.require(chosen)
        return Request(
            ids=ids,
            params=params,
            limit=resolve_max_tokens(
                len(ids), cached, self.longest_sequence, params.max_tokens
            ),
            stop_tokens=self.stop_tokens if stop_tokens is None else stop_tokens,
            adapter=chosen,
            cache=cache,
            **options,
        )

    @property
    def batch_statistics(self) -> BatchStatistics:
        """Counts of all requests; never waits for the model."""
        return self._scheduler.statistics

    def prepare(
        self, ids: TokenIds, *, adapter: str | EllipsisType | None = ...
    ) -> "Future[None] | None":
        """Prefill `ids` in idle time, for a later prompt that starts with them.

        If the prompt cache uses the disk, they are written to it: then, or at the
        latest in `close`. Returns a future that completes when that is done, or None if
        `CacheOptions.idle` is off or `ids` do not fit the context. `adapter` is as in
        `generate`.
        """
        ids, name = check_ids(ids, self._config), self._chosen(adapter)
        chosen = self._adapters.require(name)
        digest = NO_ADAPTER if chosen is None else chosen.digest
        self._scheduler.prompts.remember(ids, digest)
        fits = self.context is None or len(ids) < self.context
        if not (self._options.idle and fits):
            return None
        return self._scheduler.prepare(ids, name)

    @property
    def cache_statistics(self) -> CacheStatistics:
        """Counts of the prompt cache, and what it holds."""
        return self.run(lambda: self._scheduler.prompts.open().statistics)

    @property
    def cache_size(self) -> CacheSize:
        """Bytes of cached prompts in memory and their limit; never waits."""
        return self._scheduler.prompts.size

    def clear_cache(self) -> None:
        """Drop cached prompts that are not in use from memory; files stay."""
        self.run(lambda: self._scheduler.prompts.open().clear())

    def drain(self, timeout: float | None = None) -> bool:
        """Refuse further requests of `submit`, and wait until those have ended.

        Returns False if some still run after `timeout` seconds; they run on until
        `close`. Must not be called in the engine thread.
        """
        return self._scheduler.drain(timeout)

    def _message_ends(self) -> list[int]:
        """Return the ids of the tokens that end a message."""
        specials = self.tokenizer.specials if self.has_tokenizer else {}
        return [specials[n] for n in MESSAGE_ENDS if n in specials]

    def _release(self) -> None:
        closed = GptOssError("the model is closed: load it again to use it")
        self._scheduler.close(closed)
        super()._release()

    def _replan(self, plan: Plan) -> None:
        super()._replan(plan)
        self._scheduler.kv_budget.replan(plan)
        self._scheduler.prompts.replan(plan)
