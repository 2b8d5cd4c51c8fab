"""Two engines behind one interface: ours and stock mlx-lm, each as its users run it.

An engine is opened on a folder with the options of `load`. A run takes a prompt of
token ids and generates greedy tokens; `time_run` returns two durations. Primitives of
one step are counted. Token ids only, no text.
"""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.diagnostics.bench.lockstep import LockstepRows, require_steps
from mlx_gptoss.diagnostics.bench.primitives import (
    Counts,
    EvaluationCounter,
    typical_step,
)
from mlx_gptoss.engine.adapter_loading import load_adapters
from mlx_gptoss.engine.adapter_source import only_adapter
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.engine.planned_load import load_planned, plan_checkpoint
from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.engine.scheduler import BatchOptions
from mlx_gptoss.engine.thread import EngineThread
from mlx_gptoss.memory import describe_placement, require_fit
from mlx_gptoss.memory.plan import RESIDENT
from mlx_gptoss.model.device import lazy_paths

OURS, MLX_LM = "mlx_gptoss", "mlx-lm"
COUNTED_TOKENS = 7  # decoded to count the typical step
NO_LIMIT = 2**50  # bytes of the prompt cache, where a plan has checked what is needed


@dataclass(frozen=True)
class TimedRun:
    """Seconds to the first token, and from there to the last of `tokens`."""

    first_token_s: float
    decode_s: float
    tokens: int


class BenchEngine(Protocol):
    """The interface of an engine."""

    package: str
    dtype: str
    load_s: float  # excluding imports
    experts: str  # storage

    def tokens(self, prompt: list[int], count: int) -> Iterator[int]:
        """Yield `count` greedy tokens after `prompt`, ignoring stop tokens."""
        ...

    @property
    def hit_rate(self) -> float:
        """Return the share of experts found in slots so far."""
        ...

    def primitives(self, prompt: list[int]) -> Counts:
        """Count the primitives of one decode step of `tokens` behind `prompt`."""
        ...

    def batch_primitives(self, prompts: list[list[int]]) -> Counts:
        """Count the primitives of one decode step of a batch, a row behind each prompt.

        The step is greedy. All prompts have the same length.
        """
        ...


def dtype_name(dtype: mx.Dtype) -> str:
    """Return `float32`, `bfloat16` or `float16`."""
    return str(dtype).removeprefix("mlx.core.")


def time_run(engine: BenchEngine, prompt: list[int], count: int) -> TimedRun:
    """Time one run, from the call until each token is available."""
    mx.synchronize()
    start = time.perf_counter()
    tokens = engine.tokens(prompt, count)
    next(tokens)
    first = time.perf_counter()
    produced = 1 + sum(1 for _ in tokens)
    end = time.perf_counter()
    mx.synchronize()  # a step in flight must not slow down the next run
    assert produced == count, f"{produced=} {count=}"
    return TimedRun(first - start, end - first, produced)


class OwnEngine:
    """This package, with its own loader and `generate`."""

    def __init__(self, folder: Path, options: LoadOptions) -> None:
        compute = options.compute_dtype
        start = time.perf_counter()
        checkpoint = open_checkpoint(folder, strict=options.strict)
        plan = plan_checkpoint(checkpoint, options)
        require_fit(plan, checkpoint.config, str(folder))
        thread = EngineThread("bench")
        model, self._storage = thread.call(
            load_planned, checkpoint, plan, dtype=compute
        )
        adapter = only_adapter(options.adapter_sources)
        used = [one for one in options.adapter_sources if one.name == adapter]
        self._runtime = Runtime(
            model,
            config=checkpoint.config if used else None,
            plan=plan,
            storage=self._storage,
            thread=thread,
            dtype=compute,
        )
        load_adapters(self._runtime, used, offline=options.offline)
        self._runtime.use_adapter(adapter)
        self.experts = describe_placement(plan, checkpoint.config)
        self.load_s = time.perf_counter() - start
        self.package = f"mlx_gptoss {version('mlx-gptoss')}"
        self.dtype = dtype_name(compute)

    def tokens(self, prompt: list[int], count: int) -> Iterator[int]:
        greedy = SamplingParams(max_tokens=count, temperature=0)
        for step in self._runtime.generate(prompt, greedy, stop_tokens={}):
            yield step.token

    @property
    def hit_rate(self) -> float:
        return self._storage.statistics().total.hit_rate if self._storage else 1.0

    def primitives(self, prompt: list[int]) -> Counts:
        # A single stream is a batch of one; its reader does not see where a step ends.
        return self.batch_primitives([prompt])

    def batch_primitives(self, prompts: list[list[int]]) -> Counts:
        batch = BatchOptions(max_running=len(prompts), max_waiting=len(prompts))
        cache = CacheOptions(memory=NO_LIMIT)
        greedy = SamplingParams(max_tokens=COUNTED_TOKENS, temperature=0)
        model = self._runtime.model
        with (
            lazy_paths(),  # what numpy computes is not counted
            Runtime(model, config=model.config, cache=cache, batch=batch) as runtime,
            EvaluationCounter() as counter,
        ):
            for name, adapter in self._runtime.adapters.items():
                runtime.add_adapter(adapter)
                runtime.use_adapter(name)
            rows = LockstepRows(runtime, prompts)
            counter.take()
            steps, _ = rows.run([greedy] * len(prompts), counter.take)
        require_steps(steps, len(prompts))
        return typical_step(steps)


class MlxLmEngine:
    """Stock mlx-lm: its loader, generator and caches; nothing of ours.

    Of the options it has the dtype; without one it runs as shipped, in the
    checkpoint's.
    """

    experts = RESIDENT
    hit_rate = 1.0

    def __init__(self, folder: Path, options: LoadOptions) -> None:
        from mlx_lm.utils import load_model as load_stock

        self._model: Any
        start = time.perf_counter()
        self._model, _ = load_stock(folder, lazy=True)
        if options.dtype is not None:
            self._model.set_dtype(options.compute_dtype)
        mx.eval(self._model.parameters())
        self.load_s = time.perf_counter() - start
        self.package = f"mlx-lm {version('mlx-lm')}"
        self.dtype = dtype_name(self._model.model.norm.weight.dtype)

    def tokens(self, prompt: list[int], count: int) -> Iterator[int]:
        from mlx_lm.generate import generate_step

        stream = generate_step(mx.array(prompt), self._model, max_tokens=count)
        for token, _ in stream:
            yield int(token)

    def primitives(self, prompt: list[int]) -> Counts:
        with EvaluationCounter() as counter:
            steps = [counter.take() for _ in self.tokens(prompt, COUNTED_TOKENS)]
        return typical_step(steps[1:-1])  # the first has the prompt, the last no step

    def batch_primitives(self, prompts: list[list[int]]) -> Counts:
        from mlx_lm.generate import BatchGenerator

        # Prefilled once: the step of mlx-lm's batch does not depend on the tokens.
        *known, last = prompts[0]
        cache = self._model.make_cache()
        if known:
            mx.eval(self._model(mx.array([known]), cache=cache))
        generator = BatchGenerator(
            self._model,
            max_tokens=COUNTED_TOKENS,
            completion_batch_size=len(prompts),
            prefill_batch_size=len(prompts),
        )
        generator.insert(
            [[last]] * len(prompts), caches=[copy.deepcopy(cache) for _ in prompts]
        )
        steps: list[Counts] = []
        with EvaluationCounter() as counter:
            for _ in range(COUNTED_TOKENS):
                _, answers = generator.next()
                found = counter.take()
                if len(answers) == len(prompts):
                    steps.append(found)
        return typical_step(steps[1:-1])


ENGINES: dict[str, Callable[[Path, LoadOptions], BenchEngine]] = {
    OURS: OwnEngine,
    MLX_LM: MlxLmEngine,
}
