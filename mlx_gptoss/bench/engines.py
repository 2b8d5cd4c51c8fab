"""Two engines behind one surface: ours and stock mlx-lm, each as its users run it.

An engine is opened on a folder and a dtype, and then asked for runs: a prompt of
token ids in, greedy tokens out, two durations back. Token ids only, no text.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx

from mlx_gptoss.bench.primitives import count_primitives
from mlx_gptoss.checkpoint import load_model, open_checkpoint
from mlx_gptoss.generate import generate
from mlx_gptoss.linear import on_gpu
from mlx_gptoss.sampling import SamplingParams

OURS, MLX_LM = "mlx_gptoss", "mlx-lm"
DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}


@dataclass(frozen=True)
class Run:
    """Seconds to the first token, and from there to the last of `tokens`."""

    first_token_s: float
    decode_s: float
    tokens: int


class Engine(Protocol):
    """What a benchmark needs of an engine."""

    package: str
    dtype: str
    load_s: float  # without the imports

    def tokens(self, prompt: list[int], count: int) -> Iterator[int]:
        """Yield `count` greedy tokens after `prompt`, whatever they are."""
        ...

    def primitives(self, prompt: list[int]) -> Mapping[str, int]:
        """Count the primitives of the token that follows `prompt` and one more."""
        ...


def default_dtype() -> str:
    """Name the dtype of activations for this device, as everything here uses it."""
    return "bfloat16" if on_gpu() else "float32"


def timed_run(engine: Engine, prompt: list[int], count: int) -> Run:
    """Time one run from the call to the moment each token is known here."""
    mx.synchronize()
    start = time.perf_counter()
    tokens = engine.tokens(prompt, count)
    next(tokens)
    first = time.perf_counter()
    produced = 1 + sum(1 for _ in tokens)
    end = time.perf_counter()
    mx.synchronize()  # a step in flight must not slow the next run
    assert produced == count, f"{produced=} {count=}"
    return Run(first - start, end - first, produced)


class Ours:
    """This package, by the loader and the generator that everything here uses."""

    def __init__(self, folder: Path, dtype: str | None) -> None:
        chosen = DTYPES[dtype or default_dtype()]
        start = time.perf_counter()
        self._model = load_model(open_checkpoint(folder), dtype=chosen)
        self.load_s = time.perf_counter() - start
        self.package = f"mlx_gptoss {version('mlx-gptoss')}"
        self.dtype = _name(chosen)

    def tokens(self, prompt: list[int], count: int) -> Iterator[int]:
        greedy = SamplingParams(max_tokens=count, temperature=0)
        for step in generate(self._model, prompt, greedy, stop_tokens={}):
            yield step.token

    def primitives(self, prompt: list[int]) -> Mapping[str, int]:
        cache = self._model.make_cache()
        return _count_step(lambda ids: self._model(ids, cache), prompt)


class MlxLm:
    """Stock mlx-lm: its loader, its generator, its caches; nothing of ours.

    Without a dtype it runs as shipped, in the checkpoint's own.
    """

    def __init__(self, folder: Path, dtype: str | None) -> None:
        from mlx_lm.utils import load_model as load_stock

        self._model: Any
        start = time.perf_counter()
        self._model, _ = load_stock(folder, lazy=True)
        if dtype is not None:
            self._model.set_dtype(DTYPES[dtype])
        mx.eval(self._model.parameters())
        self.load_s = time.perf_counter() - start
        self.package = f"mlx-lm {version('mlx-lm')}"
        self.dtype = _name(self._model.model.norm.weight.dtype)

    def tokens(self, prompt: list[int], count: int) -> Iterator[int]:
        from mlx_lm.generate import generate_step

        stream = generate_step(mx.array(prompt), self._model, max_tokens=count)
        for token, _ in stream:
            yield int(token)

    def primitives(self, prompt: list[int]) -> Mapping[str, int]:
        cache = self._model.make_cache()
        return _count_step(lambda ids: self._model(ids, cache=cache), prompt)


ENGINES: dict[str, Callable[[Path, str | None], Engine]] = {
    OURS: Ours,
    MLX_LM: MlxLm,
}


def _count_step(
    logits: Callable[[mx.array], mx.array], prompt: list[int]
) -> Mapping[str, int]:
    first = mx.argmax(logits(mx.array([prompt]))[:, -1], axis=-1)
    mx.eval(first)
    return count_primitives(mx.argmax(logits(first[:, None])[:, -1], axis=-1))


def _name(dtype: mx.Dtype) -> str:
    return str(dtype).removeprefix("mlx.core.")
