"""Ask Linux to let threads that hand work to each other run on, each on its own core.

On a CPU the engine thread passes MLX's own thread one operation at a time. A thread
that wakes up may interrupt the one that woke it, and then both stay on one core and
take turns at every operation, although another core is idle. A decode step of the demo
model took 4 to 5 ms in some processes so, and 2.9 ms in others. Under the policy
SCHED_BATCH a thread that wakes up waits for its turn, or moves to the idle core.

Threads inherit the policy, so that of MLX has it if it is set before MLX is first used.
Other systems have no such policy, and nothing happens there.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def batch_policy() -> Iterator[None]:
    """Give this thread, and those that it starts meanwhile, the policy SCHED_BATCH."""
    before = _set_policy()
    try:
        yield
    finally:
        if before is not None:
            os.sched_setscheduler(0, before, os.sched_param(0))


def _set_policy() -> int | None:
    """Set SCHED_BATCH; return the policy before, or None if nothing was changed."""
    if sys.platform != "linux":
        return None
    before = os.sched_getscheduler(0)
    if before != os.SCHED_OTHER:  # somebody has chosen it
        return None
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError:  # a sandbox may forbid it; everything works without
        return None
    return before
