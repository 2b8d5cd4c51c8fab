"""What became of the BLAS that is lent to MLX on Linux; knows nothing of models.

The work is done by `blas_library.py`, once, when the package is imported.
"""

from dataclasses import dataclass
from functools import cache

from mlx_gptoss.model.blas_library import preload_once


@dataclass(frozen=True)
class BlasStatus:
    """What became of the BLAS in this process.

    `state` is `loaded` (by us), `present` (somebody preloaded it), `missing`,
    `late` (MLX was imported before us), `off` (by the user) or `unneeded`.
    `threads` is the library's own number, None where it was not loaded.
    """

    state: str
    explanation: str
    threads: int | None = None

    @property
    def optimized(self) -> bool:
        return self.state in {"loaded", "present", "unneeded"}


@cache
def preload_blas() -> BlasStatus:
    """Load the optimized BLAS if it is wanted, installed and still in time.

    Runs once a process; later calls return what the first one did.
    """
    return BlasStatus(*preload_once())
