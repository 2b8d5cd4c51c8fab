"""The device that computes, and the dtype of its activations; knows nothing of models.

Code that computes asks `use_gpu_paths`. Its answer is that of `on_gpu`, the default
device, which a user may set; inside `forced_gpu_paths` it is True on a CPU too, because
everything behind it also runs on MLX's CPU backend and is tested there. Calls that
only a GPU can answer (wired memory, adopted file pages) ask `on_gpu`, the fact.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, TypeVar

import mlx.core as mx

from mlx_gptoss.errors import ConfigError

T = TypeVar("T")

COMPUTE_DTYPES = {
    "float32": mx.float32,
    "bfloat16": mx.bfloat16,
    "float16": mx.float16,  # see model/residual.py
}


class _Override:
    """Set for all threads: an engine computes in its own."""

    forced = False
    lazy = False
    halved = False


def on_gpu() -> bool:
    """Return whether the default device is a GPU."""
    return _has_gpu() and mx.default_device().type == mx.DeviceType.gpu


@cache
def _has_gpu() -> bool:
    """Return whether this machine has a GPU, which is asked at every operation."""
    return mx.is_available(mx.gpu)


def use_gpu_paths() -> bool:
    """Return whether to compute as on a GPU: fused kernels, rows sorted by expert."""
    return on_gpu() or _Override.forced


@contextmanager
def forced_gpu_paths() -> Iterator[None]:
    """Compute as on a GPU in every thread, whatever the device: for tests."""
    before, _Override.forced = _Override.forced, True
    try:
        yield
    finally:
        _Override.forced = before


def use_host_paths(dtype: mx.Dtype) -> bool:
    """Return whether numpy may compute in MLX's place, which evaluates on the way.

    On a CPU only, and in float32: numpy has no bfloat16, and is slow in float16.
    """
    return dtype == mx.float32 and not (use_gpu_paths() or _Override.lazy)


@contextmanager
def lazy_paths() -> Iterator[None]:
    """Compute with MLX alone in every thread, as a GPU does: to count its work."""
    before, _Override.lazy = _Override.lazy, True
    try:
        yield
    finally:
        _Override.lazy = before


def choose_dtype(name: str | None) -> mx.Dtype:
    """Return the compute dtype called `name`; None means the default of the device.

    Raises ConfigError for a name that is unknown.
    """
    if name is None:
        return mx.bfloat16 if on_gpu() else mx.float32
    if name not in COMPUTE_DTYPES:
        raise ConfigError(
            f"dtype `{name}` is unknown: use bfloat16, float16 or float32"
        )
    return COMPUTE_DTYPES[name]


@cache
def second_stream() -> mx.ThreadLocalStream:
    """Return a second CPU stream, local to the calling thread."""
    return mx.new_thread_local_stream(mx.Device(mx.cpu))


def second_stream_is_free() -> bool:
    """Return whether a part of what is computed now may run on the second stream."""
    return not (use_gpu_paths() or _Override.halved)


@contextmanager
def computing_halves() -> Iterator[None]:
    """Leave the second stream to the caller, who puts half of all work on it."""
    before, _Override.halved = _Override.halved, True
    try:
        yield
    finally:
        _Override.halved = before


def as_now(function: Callable[..., T]) -> Callable[..., T]:
    """Return a function that computes on the stream that is the current one now.

    MLX computes the gradient of an operation on the operation's stream, but what Python
    defines of a gradient, and what is computed again, where it is called.
    """
    stream = mx.default_stream(mx.default_device())
    halved = _Override.halved

    @wraps(function)
    def run(*arguments: Any) -> T:
        before, _Override.halved = _Override.halved, halved
        try:
            with mx.stream(stream):
                return function(*arguments)
        finally:
            _Override.halved = before

    return run
