"""Status of the optimized BLAS that Linux lends to MLX; knows nothing of models.

`blas_library.py` loads the library, once, when the package is imported.
"""

from dataclasses import dataclass
from functools import cache

import numpy  # noqa: F401 - its own OpenBLAS reads what is taken back below

from mlx_gptoss.model.blas_library import preload_once, restore_spin

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
