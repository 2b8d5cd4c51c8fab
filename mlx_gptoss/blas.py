"""Lend MLX an optimized BLAS on Linux; knows nothing of models.

The Linux wheel of MLX bundles the *reference* BLAS, in which every float32 matrix
product runs at a small fraction of what the machine can do. Loaded with global
symbols before `mlx.core` is first imported, an installed OpenBLAS answers MLX's
calls instead (Debian, Ubuntu: `apt-get install libopenblas0-pthread`).

`mlx_gptoss/__init__.py` calls `preload_blas()`: the one exception to "no work at
import", because afterwards it is too late. It is never required, does nothing on a
Mac (MLX uses Accelerate and Metal there), and `MLX_GPTOSS_BLAS=off` forbids it.
OpenBLAS keeps its own number of threads (`OPENBLAS_NUM_THREADS`): MLX runs one
thread a stream and waits for each product, so the two do not compete. Between products
its threads would spin for a while, on cores that Python's threads want; they are told
to sleep (`OPENBLAS_THREAD_TIMEOUT`, unless it is set).
"""

import ctypes
import os
import sys
from dataclasses import dataclass
from functools import cache

SWITCH = "MLX_GPTOSS_BLAS"
LIBRARY = "libopenblas.so.0"
PACKAGE = "libopenblas0-pthread"
SPINNING = "OPENBLAS_THREAD_TIMEOUT"  # cycles as a power of two; read when it is loaded
SHORTEST_SPIN = "4"


@dataclass(frozen=True)
class Blas:
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
def preload_blas() -> Blas:
    """Load the optimized BLAS if it is wanted, installed and still in time.

    Runs once a process; later calls return what the first one did.
    """
    return _preload(
        platform=sys.platform,
        switch=os.environ.get(SWITCH, ""),
        mlx_imported="mlx.core" in sys.modules,
        library=LIBRARY,
    )


def _preload(*, platform: str, switch: str, mlx_imported: bool, library: str) -> Blas:
    if platform != "linux":
        return Blas("unneeded", "MLX brings its own BLAS on this system")
    if switch.lower() == "off":
        return Blas("off", f"switched off by {SWITCH}={switch}")
    present = ctypes.CDLL(None)  # what the process has in its global scope
    if _answers_mlx(present):
        return Blas(
            "present", "OpenBLAS was already in this process", _threads(present)
        )
    if mlx_imported:
        return Blas(
            "late",
            "`mlx.core` was imported before `mlx_gptoss`, so MLX keeps its slow BLAS: "
            "import `mlx_gptoss` first",
        )
    try:
        loaded = _loaded(library)
    except OSError:
        return Blas(
            "missing",
            f"no `{library}`, so float32 is slow on this CPU: "
            f"`apt-get install {PACKAGE}`",
        )
    if not _answers_mlx(loaded):
        return Blas(
            "missing",
            f"`{library}` here has no CBLAS, so float32 is slow on this CPU: "
            f"`apt-get install {PACKAGE}`",
        )
    return Blas("loaded", f"`{library}` answers for MLX", _threads(loaded))


def _loaded(library: str) -> ctypes.CDLL:
    if SPINNING in os.environ:
        return ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    os.environ[SPINNING] = SHORTEST_SPIN
    try:
        return ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    finally:
        del os.environ[SPINNING]


def _answers_mlx(library: ctypes.CDLL) -> bool:
    return hasattr(library, "openblas_get_num_threads") and hasattr(
        library, "cblas_sgemm"
    )


def _threads(library: ctypes.CDLL) -> int:
    return int(library.openblas_get_num_threads())
