"""Lend MLX an optimized BLAS on Linux; knows nothing of models.

The Linux wheel of MLX bundles the *reference* BLAS, which runs every float32 matrix
product at a small fraction of the machine's speed. If OpenBLAS is installed and loaded
with global symbols before the first import of `mlx.core`, MLX's calls go to it instead
(Debian, Ubuntu: `apt-get install libopenblas0-pthread`).

`mlx_gptoss/__init__.py` calls `preload_once()`: the one exception to "no work at
import", because any later is too late. It is never required, does nothing on a Mac
(MLX uses Accelerate and Metal there), and `MLX_GPTOSS_BLAS=off` disables it.
OpenBLAS keeps its own number of threads (`OPENBLAS_NUM_THREADS`): MLX runs one thread
per stream and waits for each product, so the two do not compete. Between products its
threads would spin on cores that Python's threads need, so `OPENBLAS_THREAD_TIMEOUT`
is set to let them sleep, unless the user has set it.

Until this is done, Ctrl-C prints a traceback (see `__main__.py`), so it imports little.
"""

import ctypes
import os
import sys
from functools import cache

BLAS_VARIABLE = "MLX_GPTOSS_BLAS"
LIBRARY = "libopenblas.so.0"
PACKAGE = "libopenblas0-pthread"
SPIN_VARIABLE = "OPENBLAS_THREAD_TIMEOUT"  # log2 of cycles; read at load
MIN_SPIN = "4"


class _Spin:
    """Whether this process set SPIN_VARIABLE, for its own libraries only."""

    lent = False


@cache
def preload_once() -> tuple[str, str, int | None]:
    """Load the library for this process; later calls return the first result."""
    if sys.platform == "linux" and SPIN_VARIABLE not in os.environ:
        os.environ[SPIN_VARIABLE] = MIN_SPIN
        _Spin.lent = True
    return preload(
        platform=sys.platform,
        switch=os.environ.get(BLAS_VARIABLE, ""),
        mlx_imported="mlx.core" in sys.modules,
        library=LIBRARY,
    )


def restore_spin() -> None:
    """Let programs that are started from here decide anew how long threads spin.

    For when numpy, whose own OpenBLAS reads the variable too, has been imported.
    """
    if _Spin.lent:
        os.environ.pop(SPIN_VARIABLE, None)
        _Spin.lent = False


def preload(
    *, platform: str, switch: str, mlx_imported: bool, library: str
) -> tuple[str, str, int | None]:
    """Load the library; return state, explanation, threads (see `blas.BlasStatus`)."""
    if platform != "linux":
        return "unneeded", "MLX brings its own BLAS on this system", None
    if switch.lower() == "off":
        return "off", f"switched off by {BLAS_VARIABLE}={switch}", None
    present = ctypes.CDLL(None)  # the global symbols of this process
    if _has_cblas(present):
        return "present", "OpenBLAS was already in this process", _thread_count(present)
    if mlx_imported:
        return (
            "late",
            "`mlx.core` was imported before `mlx_gptoss`, so MLX keeps its slow BLAS: "
            "import `mlx_gptoss` first",
            None,
        )
    try:
        loaded = _load(library)
    except OSError:
        return (
            "missing",
            f"no `{library}`, so float32 is slow on this CPU: "
            f"`apt-get install {PACKAGE}`",
            None,
        )
    if not _has_cblas(loaded):
        return (
            "missing",
            f"`{library}` here has no CBLAS, so float32 is slow on this CPU: "
            f"`apt-get install {PACKAGE}`",
            None,
        )
    return "loaded", f"MLX uses `{library}`", _thread_count(loaded)


def _load(library: str) -> ctypes.CDLL:
    return ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)


def _has_cblas(library: ctypes.CDLL) -> bool:
    return hasattr(library, "openblas_get_num_threads") and hasattr(
        library, "cblas_sgemm"
    )


def set_thread_count(count: int) -> None:
    """Let the OpenBLAS of this process use `count` threads for a product."""
    ctypes.CDLL(None).openblas_set_num_threads(count)


def _thread_count(library: ctypes.CDLL) -> int:
    return int(library.openblas_get_num_threads())
