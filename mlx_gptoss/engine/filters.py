"""Temperature, top-k, top-p and min-p of a batch, each row with its own settings.

A setting that is off in a row is a number that changes nothing (top-k of infinity), so
a row keeps exactly the logits it would keep alone. Dimensions: B rows, V vocabulary.
"""

import math
from collections.abc import Sequence

import mlx.core as mx

from mlx_gptoss.engine.sampling_params import SamplingParams

LEAST_P = 1e-30  # above 0, so that top-p keeps the most likely token in any case


class BatchSettings:
    """The settings of a batch as columns (B, 1); None where no row uses one."""

    def __init__(self, params: Sequence[SamplingParams]) -> None:
        self.params = list(params)
        self.all_greedy = all(one.greedy for one in params)
        self.greedy = _mask([one.greedy for one in params])
        self._temperature = _column(
            [1.0 if one.greedy else one.temperature for one in params], off=1.0
        )
        self._least = _column(
            [
                math.log(one.min_p) if one.min_p > 0 and not one.greedy else -math.inf
                for one in params
            ],
            off=-math.inf,
        )
        ranked = [one for one in params if uses_ranks(one)]
        self._top_k = _column([one.top_k or math.inf for one in ranked], off=math.inf)
        self._top_p = _column(
            [max(one.top_p, LEAST_P) if one.top_p < 1 else math.inf for one in ranked],
            off=math.inf,
        )
        rows = [b for b, one in enumerate(params) if uses_ranks(one)]
        self._ranked = bool(rows)
        self._ranked_rows = None if len(rows) == len(params) else mx.array(rows)

    def filter(self, logits: mx.array) -> mx.array:
        """Return the logits (B, V) to sample from, -inf where a token is dropped."""
        if self._temperature is not None:
            logits = logits / self._temperature
        if self._ranked:
            logits = self._keep_top(logits)
        if self._least is not None:
            logits = keep_min_p(logits, self._least)
        return logits

    def _keep_top(self, logits: mx.array) -> mx.array:
        """Sort only the rows that need it."""
        if self._ranked_rows is None:
            return keep_top(logits, self._top_k, self._top_p)
        part = mx.take(logits, self._ranked_rows, axis=0)
        logits = logits[:]  # a name of its own: the assignment rebinds it
        logits[self._ranked_rows] = keep_top(part, self._top_k, self._top_p)
        return logits


def uses_ranks(params: SamplingParams) -> bool:
    """Whether the settings depend on how the logits of a row are ranked."""
    return not params.greedy and (params.top_k > 0 or params.top_p < 1)


def keep_top(logits: mx.array, k: mx.array | None, p: mx.array | None) -> mx.array:
    """Keep the k largest logits of each row (B, V), and of these the nucleus of p.

    The nucleus is the fewest most likely tokens whose probabilities sum to p:
    https://arxiv.org/abs/1904.09751. At least one token stays if k is at least 1 and p
    above 0. `k` and `p` are columns (B, 1), infinity where off, or None.
    """
    never = mx.array(-mx.inf, logits.dtype)
    order = mx.argsort(-logits, axis=-1)
    ranked = mx.take_along_axis(logits, order, axis=-1)
    if k is not None:
        ranks = mx.arange(logits.shape[-1], dtype=mx.float32)
        ranked = mx.where(ranks < k, ranked, never)
    if p is not None:
        probabilities = mx.softmax(ranked, axis=-1, precise=True)
        before = mx.cumsum(probabilities, axis=-1, inclusive=False)
        ranked = mx.where(before < p, ranked, never)
    return mx.put_along_axis(logits, order, ranked, axis=-1)


def keep_min_p(logits: mx.array, log_p: mx.array) -> mx.array:
    """Keep tokens at least p times as likely as the most likely one of their row.

    `log_p` is the natural logarithm of p (B, 1). https://arxiv.org/abs/2407.01082
    """
    least = logits.max(axis=-1, keepdims=True) + log_p
    return mx.where(logits >= least, logits, mx.array(-mx.inf, logits.dtype))


def _column(values: list[float], *, off: float) -> mx.array | None:
    """Return the values as (B, 1) float32, or None if all are off."""
    if all(value == off for value in values):
        return None
    return mx.array(values, mx.float32)[:, None]


def _mask(values: list[bool]) -> mx.array | None:
    """Return the values as (B,) bool, or None if none is true."""
    return mx.array(values) if any(values) else None
