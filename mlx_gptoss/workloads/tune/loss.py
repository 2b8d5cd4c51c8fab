"""The loss of packed documents: cross entropy over the learned tokens, summed.

Sums are divided by the number of learned tokens of all accumulated batches, so that
how documents are packed changes neither loss nor gradient.
"""

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from mlx_gptoss.model.adapters.arrange import LM_HEAD_MODULE
from mlx_gptoss.model.adapters.trainable import TrainableUpdates
from mlx_gptoss.model.device import (
    as_now,
    computing_halves,
    second_stream,
    second_stream_is_free,
)
from mlx_gptoss.model.gpt_oss import GptOss
from mlx_gptoss.workloads.tune.batches import PackedTokens

# Logits computed at once; those of more tokens are computed in parts, and again for
# the gradient, because a vocabulary of 200,000 makes them larger than all activations.
MOST_LOGIT_BYTES = 256 * 2**20

HALVES_MIN_TOKENS = 64  # of a batch whose halves are computed on two streams

Function = Callable[..., mx.array]


def learned_tokens(batch: PackedTokens) -> int:
    """Return how many tokens of a batch are learned."""
    return int(batch.learned.sum())


def batch_loss(
    model: GptOss,
    batch: PackedTokens,
    *,
    updates: TrainableUpdates | None = None,
    adapters: Sequence[int] | None = None,
    limit: int | None = None,
) -> mx.array:
    """Return the summed loss of a batch.

    updates: those in training, which the model applies; or adapters: the slot of all
        rows. limit: tokens whose logits are computed at once.

    A CPU stream of MLX is one thread, so in training half of the documents are computed
    on a second stream, with their gradients.
    """
    limit = limit or tokens_at_once(model.config.vocab_size)
    if streams_of(model, batch) == 1:
        return _packed_loss(model, batch, updates, adapters, limit)
    (first, second), limit = batch.halves(), max(1, limit // 2)
    with computing_halves():
        with mx.stream(second_stream()):
            other = _packed_loss(model, second, updates, adapters, limit)
        return _packed_loss(model, first, updates, adapters, limit) + other


def streams_of(model: GptOss, batch: PackedTokens) -> int:
    """Return on how many streams the loss of a batch is computed."""
    enough = len(batch.lengths) > 1 and len(batch.inputs) >= HALVES_MIN_TOKENS
    return 2 if enough and model.training and second_stream_is_free() else 1


def _packed_loss(
    model: GptOss,
    batch: PackedTokens,
    updates: TrainableUpdates | None,
    adapters: Sequence[int] | None,
    limit: int,
) -> mx.array:
    if not batch.learned.any():
        return mx.array(0.0)
    ids = mx.array(batch.inputs)[None]
    hidden = model.hidden(ids, lengths=batch.lengths, adapters=adapters)  # (1, N, M)
    positions = np.flatnonzero(batch.learned)
    hidden = hidden[0, mx.array(positions)]  # (n, M)
    targets = mx.array(batch.targets[positions])

    def head(hidden: mx.array) -> mx.array:
        return model.logits(hidden[None], adapters=adapters)[0]

    recompute = mx.checkpoint
    if updates is not None and LM_HEAD_MODULE in updates.updates:
        recompute = updates.recomputed  # knows that they get a gradient
    return loss_in_parts(head, hidden, targets, limit=limit, recompute=recompute)


def cross_entropy_sum(logits: mx.array, targets: mx.array) -> mx.array:
    """Return the sum of -log p(target): (n, V) float32 and (n,) -> ()."""
    targets = mx.stop_gradient(targets)[:, None]  # indices have no gradient
    chosen = mx.take_along_axis(logits, targets, axis=-1).squeeze(-1)
    return (mx.logsumexp(logits, axis=-1) - chosen).sum()


def tokens_at_once(vocab_size: int) -> int:
    """Return for how many tokens logits are computed at once."""
    return max(1, MOST_LOGIT_BYTES // (4 * vocab_size))


def loss_in_parts(
    head: Callable[[mx.array], mx.array],
    hidden: mx.array,
    targets: mx.array,
    *,
    limit: int,
    recompute: Callable[[Function], Function] = mx.checkpoint,
) -> mx.array:
    """Return the summed loss of hidden states (n, M), `limit` tokens at a time.

    recompute: makes a function that is computed again for its gradient. It must know
        the arrays in `head` that get one.
    """

    def part(hidden: mx.array, targets: mx.array) -> mx.array:
        return cross_entropy_sum(head(hidden), targets)

    n = len(targets)
    if n <= limit:
        return part(hidden, targets)
    part_again = recompute(as_now(part))
    sums = [
        part_again(hidden[start : start + limit], targets[start : start + limit])
        for start in range(0, n, limit)
    ]
    return mx.stack(sums).sum()
