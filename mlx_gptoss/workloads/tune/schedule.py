"""The learning rate of every step: a linear warm-up, then half a cosine."""

import math

WARMUP_SHARE = 0.1


def default_warmup(steps: int) -> int:
    """Return the steps of warm-up of a run that names none."""
    return round(WARMUP_SHARE * steps)


def learning_rate(
    step: int, steps: int, *, peak: float, warmup: int, final: float
) -> float:
    """Return the rate of `step`, from 0 to `steps - 1`.

    It rises to `peak` in `warmup` steps and ends at `final * peak`, its value at the
    last step (arXiv 1608.03983, without restarts).
    """
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    last = steps - 1 - warmup
    progress = (step - warmup) / last if last > 0 else 1.0
    share = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return peak * (final + (1 - final) * share)
