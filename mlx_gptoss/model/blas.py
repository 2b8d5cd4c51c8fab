"""Status of the optimized BLAS that Linux lends to MLX; knows nothing of models.

`blas_library.py` loads the library, once, when the package is imported.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy  # noqa: F401 - its own OpenBLAS reads what is taken back below

from mlx_gptoss.model.blas_library import preload_once, restore_spin, set_thread_count

restore_spin()


@dataclass(frozen=True)
class BlasStatus:
    """Status of the BLAS in this process.

    `state` is `loaded` (by this package), `present` (already preloaded), `missing`,
    `late` (MLX was imported first), `off` (by the user) or `unneeded`.
    `threads` is the library's own count, None if it is not loaded.
    """

    state: str
    explanation: str
    threads: int | None = None

    @property
    def optimized(self) -> bool:
        return self.state in {"loaded", "present", "unneeded"}


@cache
def preload_blas() -> BlasStatus:
    """Load the optimized BLAS if it is wanted, installed and not too late.

    Runs once per process; later calls return the first result.
    """
    return BlasStatus(*preload_once())


@contextmanager
def sharing_threads(parts: int) -> Iterator[None]:
    """Give each of `parts` streams that multiply at once its share of the threads.

    Calls of several threads into one OpenBLAS wait for each other, spinning.
    """
    count = preload_blas().threads
    if count is None or parts < 2:
        yield
        return
    set_thread_count(max(1, count // parts))
    try:
        yield
    finally:
        set_thread_count(count)
