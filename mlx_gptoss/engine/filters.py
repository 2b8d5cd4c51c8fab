"""Filters of sampling: top-k, top-p and min-p, each row with a number of its own.

Dimensions: B rows, V vocabulary.
"""

import mlx.core as mx


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
