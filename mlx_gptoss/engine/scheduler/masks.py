"""Requests whose next token mask takes time: wait a moment, then decode the others.

A grammar computes its masks in another process. All running requests wait for them up
to MASK_WAIT_S per decode step; a request whose mask takes longer sits out until it is
there, and its arrival wakes the scheduler.
"""

import time
from collections.abc import Callable
from concurrent.futures import wait

from mlx_gptoss.engine.scheduler.decode_step import ErrorScope
from mlx_gptoss.engine.scheduler.request import DECODE, Request

MASK_WAIT_S = 0.02  # seconds per decode step, for all requests together


def ready_to_decode(
    running: list[Request], isolate: ErrorScope, wake: Callable[[], None]
) -> list[Request]:
    """Return the requests whose next token can be sampled now.

    `wake` is called when a mask that was waited for arrives.
    """
    ready, until = [], time.perf_counter() + MASK_WAIT_S
    for request in [r for r in running if r.sequence and r.state == DECODE]:
        with isolate(request):
            assert request.sequence is not None
            pending = request.sequence.pending_mask
            if pending is not None and pending is not request.awaited_mask:
                wait([pending], max(0, until - time.perf_counter()))
                request.awaited_mask = pending
                pending.add_done_callback(lambda _: wake())
            if pending is None or pending.done():
                ready.append(request)
    return ready


def blocked_on_masks(running: list[Request]) -> bool:
    """Whether every running request waits for a mask, whose arrival calls `wake`."""
    return bool(running) and all(
        r.sequence is not None
        and r.state == DECODE
        and r.awaited_mask is not None
        and r.sequence.pending_mask is r.awaited_mask
        for r in running
    )
