"""A limit on what MLX allocates ahead of what it computes; knows nothing of models."""

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx

from mlx_gptoss.model.device import on_gpu


@contextmanager
def limited_memory(nbytes: int | None) -> Iterator[None]:
    """Let MLX wait for its CPU streams where arrays take `nbytes` more than now.

    Its evaluator allocates the result of an operation when it queues it, and queues
    about 50 ahead of the streams: how many of them exist at once, and so the peak,
    depends on how late the streams are. Above its memory limit it queues no more until
    they have caught up. What a computation cannot do without is allocated still.

    Nothing is limited without `nbytes`, and on a GPU, nor is a lower limit raised.
    """
    if nbytes is None or on_gpu():
        yield
        return
    limit = mx.get_active_memory() + nbytes
    before = mx.set_memory_limit(limit)
    try:
        if before < limit:
            mx.set_memory_limit(before)
        yield
    finally:
        mx.set_memory_limit(before)
