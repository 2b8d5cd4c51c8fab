"""The next tokens of several answers, drawn in one go; knows no model and no guide.

Each row of logits has its own settings and its own seed, and gets the token that it
would get alone. Dimensions: B rows, V vocabulary.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple, cast

import mlx.core as mx

from mlx_gptoss.engine.sampling_params import (
    SamplingParams,
    log_softmax,
    sample_without_bias,
    top_logprobs,
)


class SamplerInput(NamedTuple):
    """How the token behind one row of logits is to be drawn."""

    params: SamplingParams
    seed: int  # of this one token
    masked_logits: mx.array | None = (
        None  # logits (V,) to draw from; None: the model's own
    )


class SampledToken:
    """One token that was drawn, and may not be computed yet."""

    def __init__(
        self, batch: "SampledTokens", row: int, top: tuple[mx.array, mx.array] | None
    ) -> None:
        self.batch = batch
        self.row = row
        self.top = top  # tokens and logprobs (n,), best first

    @property
    def token(self) -> mx.array:
        """The token () int32; does not wait for it."""
        return self.batch.tokens[self.row]

    def result(self) -> tuple[int, float, list[tuple[int, float]]]:
        """Wait for it: the token, its log-probability, and the likeliest ones.

        The log-probability is NaN or +inf where no token could be drawn: see
        `logprobs_of`.
        """
        token, logprob = self.batch.values[self.row]
        top = [cast("list[Any]", part.tolist()) for part in self.top or ()]
        return token, logprob, list(zip(*top, strict=True))


class SampledTokens:
    """Tokens (B,) int32 that were drawn together, and their log-probabilities (B,)."""

    def __init__(self, tokens: mx.array, logprobs: mx.array) -> None:
        self.tokens = tokens
        self.logprobs = logprobs

    @cached_property
    def values(self) -> list[tuple[int, float]]:
        """Token and log-probability of each row. Waits for them."""
        both = (cast("list[Any]", x.tolist()) for x in (self.tokens, self.logprobs))
        return list(zip(*both, strict=True))


def sample_batch(
    logits: mx.array, inputs: Sequence[SamplerInput | None]
) -> list[SampledToken | None]:
    """Choose a token for each row of logits (B, V) that has a wish; start computing."""
    rows = [b for b, wish in enumerate(inputs) if wish is not None]
    wanted = [wish for wish in inputs if wish is not None]
    drawn: list[SampledToken | None] = [None] * len(inputs)
    if not rows:
        return drawn
    if len(rows) < len(inputs):
        logits = logits[mx.array(rows)]
    legal = masked_rows(logits, wanted)
    tokens = sample_rows(legal, wanted)
    chosen = sampled_logprobs(tokens, logits, legal)
    draws = SampledTokens(tokens, chosen)
    for n, (b, wish) in enumerate(zip(rows, wanted, strict=True)):
        count = wish.params.top_logprobs
        top = top_logprobs(log_softmax(logits[n]), count) if count else None
        drawn[b] = SampledToken(draws, n, top)
    mx.async_eval(tokens, chosen, [one.top for one in drawn if one and one.top])
    return drawn


def sampled_logprobs(tokens: mx.array, logits: mx.array, masked: mx.array) -> mx.array:
    """Return the log-probabilities (B,) of tokens (B,) by logits (B, V).

    NaN where a row is no distribution (a NaN, +inf, or nothing but -inf), and +inf
    where `legal`, from which the tokens were drawn, left none. Without a mask a row
    with +inf has its token there, and inf - inf is NaN without another operation.
    """
    places = tokens[:, None]
    total = mx.logsumexp(logits, axis=-1, keepdims=True)
    chosen = mx.take_along_axis(logits, places, axis=-1) - total
    if masked is not logits:
        drawn_from = mx.take_along_axis(masked, places, axis=-1)
        none_left = mx.where(drawn_from == -math.inf, math.inf, 0.0)
        chosen = chosen + mx.where(total == math.inf, math.nan, none_left)
    return chosen[:, 0]


def masked_rows(logits: mx.array, inputs: Sequence[SamplerInput]) -> mx.array:
    """Return what each row is drawn from: (B, V)."""
    if all(wish.masked_logits is None for wish in inputs):
        return logits
    return mx.stack(
        [
            logits[b] if wish.masked_logits is None else wish.masked_logits
            for b, wish in enumerate(inputs)
        ]
    )


def sample_rows(logits: mx.array, inputs: Sequence[SamplerInput]) -> mx.array:
    """Choose a token for each row of logits (B, V) -> (B,); alike ones together."""
    alike: dict[tuple[float, ...], list[int]] = {}
    for b, wish in enumerate(inputs):
        alike.setdefault(wish.params.batch_key, []).append(b)
    parts = []
    for rows in alike.values():
        some = logits if len(alike) == 1 else logits[mx.array(rows)]
        params = inputs[rows[0]].params
        if params.greedy:
            parts.append(sample_without_bias(some, params))
        elif len(rows) == 1:
            key = mx.random.key(inputs[rows[0]].seed)
            parts.append(sample_without_bias(some[0], params, key)[None])
        else:
            keys = mx.stack([mx.random.key(inputs[b].seed) for b in rows])
            parts.append(sample_without_bias(some, params, keys))
    if len(parts) == 1:
        return parts[0]
    order = [b for rows in alike.values() for b in rows]
    back = sorted(range(len(order)), key=order.__getitem__)
    return mx.concatenate(parts)[mx.array(back)]


def stack_tokens(sampled: Sequence[SampledToken]) -> mx.array:
    """Return the tokens (B,) of draws, as they are where all come from one go."""
    first = sampled[0].batch
    whole = len(sampled) == first.tokens.shape[0] and all(
        one.batch is first and one.row == b for b, one in enumerate(sampled)
    )
    return first.tokens if whole else mx.stack([one.token for one in sampled])
