"""Log-probabilities of sampled tokens, from the model's unmodified logits.

Natural logarithms, float32. Dimensions: B rows, V vocabulary.
"""

import mlx.core as mx

from mlx_gptoss.engine.sampling_params import MAX_TOP_LOGPROBS


def top_logprobs(logprobs: mx.array) -> tuple[mx.array, mx.array]:
    """Return ids and logprobs (B, MAX_TOP_LOGPROBS) of the likeliest, best first.

    Always as many, so that the order of equals does not depend on other rows; fewer
    only if the vocabulary is smaller.
    """
    count = min(MAX_TOP_LOGPROBS, logprobs.shape[-1])
    best = mx.argpartition(-logprobs, kth=count - 1, axis=-1)[..., :count]
    values = mx.take_along_axis(logprobs, best, axis=-1)
    order = mx.argsort(-values, axis=-1)
    tokens = mx.take_along_axis(best, order, axis=-1).astype(mx.int32)
    return tokens, mx.take_along_axis(values, order, axis=-1)


def sampled_logprobs(
    tokens: mx.array, logits: mx.array, total: mx.array, *, masked: bool
) -> mx.array:
    """Return the logprobs (B,) of tokens (B,) under logits (B, V).

    `total` (B, 1) is the logarithm of the sum of the exponentials of the logits. NaN
    where a row is no distribution (a NaN, +inf, or nothing but -inf). `masked` says
    that tokens were sampled under a mask: without one a row with +inf has its token
    there, and inf - inf is NaN without another operation.
    """
    logprobs = mx.take_along_axis(logits, tokens[:, None], axis=-1) - total
    if masked:
        logprobs = logprobs + (total - total)  # 0, or NaN unless the sum is finite
    return logprobs[:, 0]
