"""Sequences whose next token mask takes time: wait a moment, then decode the others.

A grammar computes its masks in another process. All running sequences wait for them up
to MASK_WAIT_S per decode step; one whose mask takes longer sits out until it is there,
and its arrival wakes the scheduler.
"""

import time
from collections.abc import Callable
from concurrent.futures import wait

from mlx_gptoss.engine.scheduler.sampling import ErrorScope
from mlx_gptoss.engine.sequence import DECODE, Sequence

MASK_WAIT_S = 0.02  # seconds per decode step, for all sequences together


def ready_to_decode(
    running: list[Sequence], isolate: ErrorScope, wake: Callable[[], None]
) -> list[Sequence]:
    """Return the sequences whose next token can be sampled now.

    `wake` is called when a mask that was waited for arrives.
    """
    ready, until = [], time.perf_counter() + MASK_WAIT_S
    for sequence in [one for one in running if one.state == DECODE]:
        with isolate(sequence):
            pending = sequence.pending_mask
            if pending is not None and pending is not sequence.awaited_mask:
                wait([pending], max(0, until - time.perf_counter()))
                sequence.awaited_mask = pending
                pending.add_done_callback(lambda _: wake())
            if pending is None or pending.done():
                ready.append(sequence)
    return ready


def blocked_on_masks(running: list[Sequence]) -> bool:
    """Whether every running sequence waits for a mask, whose arrival calls `wake`."""
    return bool(running) and all(
        one.state == DECODE
        and one.awaited_mask is not None
        and one.pending_mask is one.awaited_mask
        for one in running
    )
