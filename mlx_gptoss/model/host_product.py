"""Matrix products in numpy, with several threads only where they gain something.

numpy's wheels for Linux bring an OpenBLAS of their own, beside the one that is lent to
MLX (`blas_library.py`). It cuts a product of half a million multiplications in pieces
for all cores, and its threads wait for each other in a loop that never yields. If one
of the cores is busy for a moment, with MLX's own thread or with another program, two of
them take turns on one core, 4 ms each: a product of 20 us may last that long, and a
prompt of a small model, which has thousands, twenty times its time. So products that
are short anyway are made by the calling thread alone.

The library is asked through numpy's own module: its functions are found where numpy
itself finds them, whatever file they are in. (`threadpoolctl` lists the libraries of
the process, but not which of them is numpy's.) Accelerate, on a Mac, has none of them,
and a product remains what numpy makes of it.
"""

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np

# Fewer multiplications take one core less than a millisecond: what a second one gains
# on them is small beside what waiting for it may cost.
MIN_SHARED_PRODUCTS = 20_000_000

# Of numpy's wheels, and of an OpenBLAS that several programs share.
PREFIXES, SUFFIXES = ("scipy_openblas", "openblas"), ("64_", "")


def multiply(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return x @ w, (R, in) and (in, out) -> (R, out)."""
    if len(x) * w.size >= MIN_SHARED_PRODUCTS:
        return x @ w
    with one_thread():
        return x @ w


class _Limit:
    """How many callers want one thread now, and the number that all had before."""

    lock = threading.Lock()
    callers = 0
    before = 1


@contextmanager
def one_thread() -> Iterator[None]:
    """Let numpy's OpenBLAS, if that is what it has, multiply in the calling thread."""
    found = _thread_functions()
    if found is None:
        yield
        return
    count, set_count = found
    with _Limit.lock:
        if not _Limit.callers:
            _Limit.before = count()
            set_count(1)
        _Limit.callers += 1
    try:
        yield
    finally:
        with _Limit.lock:
            _Limit.callers -= 1
            if not _Limit.callers:
                set_count(_Limit.before)


def thread_count() -> int | None:
    """Return how many threads numpy's OpenBLAS uses now; None if it has another."""
    found = _thread_functions()
    return None if found is None else found[0]()


@cache
def _thread_functions() -> tuple[Callable[[], int], Callable[[int], object]] | None:
    """Return the functions that read and set the number of threads."""
    path = getattr(sys.modules.get("numpy._core._multiarray_umath"), "__file__", None)
    if path is None:
        return None
    library = ctypes.CDLL(path)  # a name is looked up in all that it depends on, too
    for prefix in PREFIXES:
        for suffix in SUFFIXES:
            names = [f"{prefix}_{do}_num_threads{suffix}" for do in ("get", "set")]
            if all(hasattr(library, name) for name in names):
                read, write = (getattr(library, name) for name in names)
                return read, write
    return None
