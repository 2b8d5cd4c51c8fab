"""The sampling settings of a batch: one pass for rows that each have their own.

A setting that is off in a row is a number that changes nothing (top-k of infinity), so
a row keeps exactly the logits it would keep alone. Dimensions: B rows, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence

import mlx.core as mx

from mlx_gptoss.engine.filters import keep_min_p, keep_top
from mlx_gptoss.engine.rows import select_rows
from mlx_gptoss.engine.sampling_params import SamplingParams

BIAS_LIMIT = 1e30  # outweighs any logit, and is far from the end of float32
LEAST_P = 1e-30  # above 0, so that top-p keeps the most likely token in any case


class BatchSettings:
    """The settings of a batch on the device, as columns; None where no row uses one.

    `greedy` is (B,) bool, or None if no row is greedy. `top_rows` are the rows that
    report likely tokens; `top_places` gives each row its place among them, and how many
    it reports.
    """

    def __init__(self, params: Sequence[SamplingParams]) -> None:
        self.params = list(params)
        greedy = [one.greedy for one in params]
        self.all_greedy = all(greedy)
        self.greedy = mx.array(greedy) if any(greedy) else None
        self._bias = _biases(params)
        self._temperature = _column(
            [1.0 if one.greedy else one.temperature for one in params], off=1.0
        )
        self._min_p = _column(
            [0.0 if one.greedy else one.min_p for one in params], off=0.0, of=_log
        )
        self._ranked_rows = [b for b, one in enumerate(params) if _uses_ranks(one)]
        ranked = [params[b] for b in self._ranked_rows]
        self._top_k = _column([one.top_k or math.inf for one in ranked], off=math.inf)
        self._top_p = _column([_reach(one.top_p) for one in ranked], off=math.inf)
        counts = [one.top_logprobs for one in params]
        self.top_rows = [b for b, count in enumerate(counts) if count]
        self.top_places = [
            (sum(map(bool, counts[:b])), count) for b, count in enumerate(counts)
        ]

    def add_bias(self, logits: mx.array) -> mx.array:
        """Add each row's biases to its logits (B, V), clipped to +-BIAS_LIMIT."""
        if self._bias is None:
            return logits
        rows, tokens, values = self._bias
        return logits.at[rows, tokens].add(values)

    def filter(self, logits: mx.array) -> mx.array:
        """Return the logits (B, V) to sample from, -inf where a token is dropped."""
        if self._temperature is not None:
            logits = logits / self._temperature
        if self._ranked_rows:
            logits = self._keep_top(logits)
        if self._min_p is not None:
            logits = keep_min_p(logits, self._min_p)
        return logits

    def _keep_top(self, logits: mx.array) -> mx.array:
        """Sort the rows that need it, and only these."""
        some = select_rows(logits, self._ranked_rows)
        kept = keep_top(some, self._top_k, self._top_p)
        if some is logits:
            return kept
        logits = logits[:]  # an object of its own, which the assignment rebinds
        logits[mx.array(self._ranked_rows)] = kept
        return logits


def _uses_ranks(params: SamplingParams) -> bool:
    return not params.greedy and (params.top_k > 0 or params.top_p < 1)


def _reach(top_p: float) -> float:
    """Return the sum of probabilities to reach, infinity where top-p is off.

    Not 1: rounded, a sum can pass 1 before the last token.
    """
    return max(top_p, LEAST_P) if top_p < 1 else math.inf


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _column(
    values: list[float], *, off: float, of: Callable[[float], float] = float
) -> mx.array | None:
    """Return `of` each value as (B, 1) float32, or None if all are off."""
    if all(value == off for value in values):
        return None
    return mx.array([of(value) for value in values], mx.float32)[:, None]


def _biases(
    params: Sequence[SamplingParams],
) -> tuple[mx.array, mx.array, mx.array] | None:
    """Return rows, token ids and values (N,) of all biases; None if there are none."""
    found = [
        (row, token, max(-BIAS_LIMIT, min(value, BIAS_LIMIT)))
        for row, one in enumerate(params)
        for token, value in (one.logit_bias or {}).items()
    ]
    if not found:
        return None
    rows, tokens, values = zip(*found, strict=True)
    return (
        mx.array(list(rows)),
        mx.array(list(tokens)),
        mx.array(list(values), mx.float32),
    )
