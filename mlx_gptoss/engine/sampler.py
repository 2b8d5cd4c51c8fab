"""Sampling: from logits to token ids, for one row or a whole batch.

Each row has its own settings and seed, and gets the token it would get alone. The order
is: bias, temperature, top-k, top-p, min-p. Log-probabilities reported to users are
log-softmax of the model's unmodified logits, however the token was sampled.

Knows nothing of models, text or guides. Logits are float32. Dimensions: B rows,
V vocabulary.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, cast

import mlx.core as mx

from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import PromptError

BIAS_LIMIT = 1e30  # outweighs any logit, and is far from the end of float32


class SamplerInput(NamedTuple):
    """How to sample from one row of logits."""

    params: SamplingParams
    seed: int  # of this token only
    masked_logits: mx.array | None = None  # (V,) to sample from; None: the row itself


class SampledToken:
    """One sampled token, possibly not computed yet."""

    def __init__(
        self, batch: "SampledTokens", row: int, top: tuple[mx.array, mx.array] | None
    ) -> None:
        self.batch = batch
        self.row = row
        self.top = top  # token ids and logprobs (n,), most likely first

    @property
    def token(self) -> mx.array:
        """The token id () int32, without waiting for it."""
        return self.batch.tokens[self.row]

    def result(self) -> tuple[int, float, list[tuple[int, float]]]:
        """Wait; return the token id, its logprob, and the most likely (id, logprob).

        The logprob is NaN or +inf where no token could be sampled: see
        `sampled_logprobs`.
        """
        token, logprob = self.batch.values[self.row]
        top = [cast("list[Any]", part.tolist()) for part in self.top or ()]
        return token, logprob, list(zip(*top, strict=True))


class SampledTokens:
    """Token ids (B,) int32 that were sampled together, and their logprobs (B,)."""

    def __init__(self, tokens: mx.array, logprobs: mx.array) -> None:
        self.tokens = tokens
        self.logprobs = logprobs

    @cached_property
    def values(self) -> list[tuple[int, float]]:
        """Token id and logprob of each row. Waits for them."""
        both = (cast("list[Any]", x.tolist()) for x in (self.tokens, self.logprobs))
        return list(zip(*both, strict=True))


def sample_batch(
    logits: mx.array, inputs: Sequence[SamplerInput | None]
) -> list[SampledToken | None]:
    """Sample from each row of logits (B, V) that has an input; start computing.

    Returns one entry per row, None where the row has no input.
    """
    rows = [b for b, one in enumerate(inputs) if one is not None]
    given = [one for one in inputs if one is not None]
    sampled: list[SampledToken | None] = [None] * len(inputs)
    if not rows:
        return sampled
    if len(rows) < len(inputs):
        logits = logits[mx.array(rows)]
    masked = _masked_rows(logits, given)
    tokens = _sample_rows(masked, given)
    logprobs = sampled_logprobs(tokens, logits, masked)
    batch = SampledTokens(tokens, logprobs)
    for n, (b, one) in enumerate(zip(rows, given, strict=True)):
        count = one.params.top_logprobs
        top = top_logprobs(log_softmax(logits[n]), count) if count else None
        sampled[b] = SampledToken(batch, n, top)
    mx.async_eval(tokens, logprobs, [one.top for one in sampled if one and one.top])
    return sampled


def stack_tokens(sampled: Sequence[SampledToken]) -> mx.array:
    """Return the token ids (B,) int32; no copy if they are one whole batch."""
    batch = sampled[0].batch
    whole = len(sampled) == batch.tokens.shape[0] and all(
        one.batch is batch and one.row == b for b, one in enumerate(sampled)
    )
    return batch.tokens if whole else mx.stack([one.token for one in sampled])


def sample(
    logits: mx.array, params: SamplingParams, key: mx.array | None = None
) -> mx.array:
    """Sample a token id: (V,) -> () or (B, V) -> (B,), int32.

    The caller adds `logit_bias` beforehand (`add_bias`). One key (2,) serves the whole
    call: rows are sampled independently from it. With keys (B, 2) each row gets the
    token it would get alone with its own key. Greedy sampling needs no key.
    """
    if params.greedy:
        return mx.argmax(logits, axis=-1).astype(mx.int32)
    if params.temperature != 1:
        logits = logits / params.temperature
    if 0 < params.top_k < logits.shape[-1]:
        logits = keep_top_k(logits, params.top_k)
    if params.top_p < 1:
        logits = keep_top_p(logits, params.top_p)
    if params.min_p > 0:
        logits = keep_min_p(logits, params.min_p)
    if key is not None and key.ndim == 2:
        return _categorical_rows(logits, key).astype(mx.int32)
    return mx.random.categorical(logits, key=key).astype(mx.int32)


_categorical_rows = mx.vmap(lambda row, key: mx.random.categorical(row, key=key))


def add_bias(logits: mx.array, logit_bias: Mapping[int, float]) -> mx.array:
    """Add a bias to single logits (..., V), clipped to +-BIAS_LIMIT.

    Raises PromptError for a token id outside the vocabulary.
    """
    tokens, V = list(logit_bias), logits.shape[-1]
    if max(tokens) >= V:
        raise PromptError(
            f"`logit_bias` names token {max(tokens)}, but the vocabulary has {V}: "
            "use the ids of this model's tokenizer"
        )
    values = [max(-BIAS_LIMIT, min(value, BIAS_LIMIT)) for value in logit_bias.values()]
    bias = mx.array(values, logits.dtype)
    return logits.at[..., mx.array(tokens)].add(bias)


def keep_top_k(logits: mx.array, k: int) -> mx.array:
    """Keep exactly the k largest logits; set the others to -inf."""
    rest = mx.argpartition(-logits, kth=k - 1, axis=-1)[..., k:]
    return mx.put_along_axis(logits, rest, mx.array(-mx.inf, logits.dtype), axis=-1)


def keep_top_p(logits: mx.array, p: float) -> mx.array:
    """Keep the fewest most likely tokens whose probabilities sum to p; at least one.

    Nucleus sampling: https://arxiv.org/abs/1904.09751
    """
    order = mx.argsort(-logits, axis=-1)
    ranked = mx.take_along_axis(logits, order, axis=-1)
    probabilities = mx.softmax(ranked, axis=-1, precise=True)
    before = mx.cumsum(probabilities, axis=-1, inclusive=False)
    nucleus = (before < p) | (before == 0)
    ranked = mx.where(nucleus, ranked, mx.array(-mx.inf, logits.dtype))
    return mx.put_along_axis(logits, order, ranked, axis=-1)


def keep_min_p(logits: mx.array, p: float) -> mx.array:
    """Keep tokens at least p times as likely as the most likely one.

    Min-p sampling: https://arxiv.org/abs/2407.01082
    """
    least = logits.max(axis=-1, keepdims=True) + math.log(p)
    return mx.where(logits >= least, logits, mx.array(-mx.inf, logits.dtype))


def log_softmax(logits: mx.array) -> mx.array:
    """Return log-probabilities (..., V), natural logarithm, in float32."""
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def top_logprobs(logprobs: mx.array, count: int) -> tuple[mx.array, mx.array]:
    """Return ids and logprobs (..., count) of the most likely tokens, best first."""
    best = mx.argpartition(-logprobs, kth=count - 1, axis=-1)[..., :count]
    values = mx.take_along_axis(logprobs, best, axis=-1)
    order = mx.argsort(-values, axis=-1)
    tokens = mx.take_along_axis(best, order, axis=-1).astype(mx.int32)
    return tokens, mx.take_along_axis(values, order, axis=-1)


def sampled_logprobs(tokens: mx.array, logits: mx.array, masked: mx.array) -> mx.array:
    """Return the logprobs (B,) of tokens (B,) under logits (B, V).

    NaN where a row is no distribution (a NaN, +inf, or nothing but -inf), and +inf
    where `masked`, the logits that were sampled from, allow no token. Without a mask a
    row with +inf has its token there, and inf - inf is NaN without another operation.
    """
    places = tokens[:, None]
    total = mx.logsumexp(logits, axis=-1, keepdims=True)
    logprobs = mx.take_along_axis(logits, places, axis=-1) - total
    if masked is not logits:
        sampled_from = mx.take_along_axis(masked, places, axis=-1)
        none_legal = mx.where(sampled_from == -math.inf, math.inf, 0.0)
        logprobs = logprobs + mx.where(total == math.inf, math.nan, none_legal)
    return logprobs[:, 0]


def _masked_rows(logits: mx.array, inputs: Sequence[SamplerInput]) -> mx.array:
    """Return the logits (B, V) that are sampled from."""
    if all(one.masked_logits is None for one in inputs):
        return logits
    return mx.stack(
        [
            logits[b] if one.masked_logits is None else one.masked_logits
            for b, one in enumerate(inputs)
        ]
    )


def _sample_rows(logits: mx.array, inputs: Sequence[SamplerInput]) -> mx.array:
    """Sample from each row of logits (B, V) -> (B,); one pass per group of settings."""
    groups: dict[tuple[float, ...], list[int]] = {}
    for b, one in enumerate(inputs):
        groups.setdefault(one.params.batch_key, []).append(b)
    parts = []
    for rows in groups.values():
        some = logits if len(groups) == 1 else logits[mx.array(rows)]
        params = inputs[rows[0]].params
        if params.greedy:
            parts.append(sample(some, params))
        elif len(rows) == 1:
            key = mx.random.key(inputs[rows[0]].seed)
            parts.append(sample(some[0], params, key)[None])
        else:
            keys = mx.stack([mx.random.key(inputs[b].seed) for b in rows])
            parts.append(sample(some, params, keys))
    if len(parts) == 1:
        return parts[0]
    order = [b for rows in groups.values() for b in rows]
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return mx.concatenate(parts)[mx.array(inverse)]
