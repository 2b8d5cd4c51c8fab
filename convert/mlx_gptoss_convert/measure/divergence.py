"""Divergence of one model's predictions from another's, in slices of the vocabulary.

Only one slice of logits is in memory at a time. Knows numbers; nothing of models or
files.

Dimensions: N positions, S tokens of a slice.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

TOP_TOKENS = 5  # tokens whose overlap is measured
TAIL = 0.99  # quantile of `kl_99`


@dataclass(frozen=True)
class Divergence:
    """How the predictions of two models differ, over `positions` positions."""

    positions: int
    kl: float  # mean of KL(before || after), nats
    kl_99: float
    flips: float  # share of positions whose top token differs
    top5_overlap: float  # mean share of the top five tokens that are kept
    perplexity_before: float
    perplexity_after: float

    def as_dict(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in self.__dataclass_fields__}


class LogSumExp:
    """Running log(sum(exp(logits))) of N rows, in float64."""

    def __init__(self, rows: int) -> None:
        self.top = np.full(rows, -np.inf)
        self.sum = np.zeros(rows)
        self.weighted = np.zeros(rows)

    def add(self, top: np.ndarray, total: np.ndarray, weighted: np.ndarray) -> None:
        """Add a slice: largest logit, sum of exp(logit - largest), weighted sum."""
        new = np.maximum(self.top, top)
        old_share, share = np.exp(self.top - new), np.exp(top - new)
        self.sum = self.sum * old_share + total * share
        self.weighted = self.weighted * old_share + weighted * share
        self.top = new

    @property
    def value(self) -> np.ndarray:
        return self.top + np.log(self.sum)


class TopTokens:
    """Ids of the `TOP_TOKENS` largest logits of N rows, over slices."""

    def __init__(self, rows: int) -> None:
        self.logits = np.zeros((rows, 0), np.float32)
        self.ids = np.zeros((rows, 0), np.int64)

    def add(self, logits: mx.array, first: int) -> None:
        count = min(TOP_TOKENS, logits.shape[1])
        places = mx.argpartition(logits, kth=-count, axis=1)[:, -count:]
        values = mx.take_along_axis(logits, places, axis=1)
        both = np.concatenate([self.logits, np.array(values)], axis=1)
        ids = np.concatenate([self.ids, np.array(places).astype(np.int64) + first], 1)
        order = np.argsort(-both, axis=1, kind="stable")[:, :TOP_TOKENS]
        self.logits = np.take_along_axis(both, order, 1)
        self.ids = np.take_along_axis(ids, order, 1)


class LogitComparison:
    """Accumulates two models' logits at N positions by slices of the vocabulary."""

    def __init__(self, targets: np.ndarray) -> None:
        """`targets` (N,) are the tokens that follow in the text."""
        rows = len(targets)
        self.targets = targets
        self.before, self.after = LogSumExp(rows), LogSumExp(rows)
        self.best_before, self.best_after = TopTokens(rows), TopTokens(rows)
        self.target_before, self.target_after = np.zeros(rows), np.zeros(rows)
        self.seen = 0

    def add(self, before: mx.array, after: mx.array) -> None:
        """Add the logits (N, S) of the next slice of the vocabulary."""
        sums = [*weigh(before, before - after), *weigh(after, mx.zeros_like(after))]
        mx.eval(sums)  # frees the logits of the slice
        one, two = [np.array(x).astype(np.float64) for x in sums[:3]], sums[3:]
        self.before.add(*one)
        self.after.add(*[np.array(x).astype(np.float64) for x in two])
        self.best_before.add(before, self.seen)
        self.best_after.add(after, self.seen)
        self.add_targets(before, after)
        self.seen += before.shape[1]

    def add_targets(self, before: mx.array, after: mx.array) -> None:
        places = self.targets - self.seen
        rows = np.flatnonzero((places >= 0) & (places < before.shape[1]))
        if len(rows):
            chosen = mx.array(rows), mx.array(places[rows])
            self.target_before[rows] = np.array(before[chosen])
            self.target_after[rows] = np.array(after[chosen])

    def result(self) -> Divergence:
        """Return the divergence, once the whole vocabulary has been added."""
        before, after = self.before.value, self.after.value
        difference = self.before.weighted / self.before.sum
        kl = np.maximum(difference - before + after, 0)  # rounding may give less than 0
        same = self.best_before.ids[:, :, None] == self.best_after.ids[:, None, :]
        return Divergence(
            positions=len(kl),
            kl=float(kl.mean()),
            kl_99=float(np.quantile(kl, TAIL)),
            flips=float(
                (self.best_before.ids[:, 0] != self.best_after.ids[:, 0]).mean()
            ),
            top5_overlap=float(same.any(axis=2).mean()),
            perplexity_before=float(np.exp((before - self.target_before).mean())),
            perplexity_after=float(np.exp((after - self.target_after).mean())),
        )


def weigh(logits: mx.array, values: mx.array) -> list[mx.array]:
    """Return each row's largest logit, sum of exp, and sum of exp times `values`."""
    top = logits.max(axis=1, keepdims=True)
    shares = mx.exp(logits - top)
    return [top[:, 0], shares.sum(axis=1), (shares * values).sum(axis=1)]


def compare_logits(
    targets: np.ndarray, slices: Iterable[tuple[mx.array, mx.array]]
) -> Divergence:
    """Compare logits (N, S) of two models, given in slices of the vocabulary."""
    comparison = LogitComparison(targets)
    for before, after in slices:
        comparison.add(before, after)
    return comparison.result()
