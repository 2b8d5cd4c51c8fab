"""The next tokens of several answers, drawn in one go; knows no model and no guide.

Each row of logits has its own settings and its own seed, and gets the token that it
would get alone. Dimensions: B rows, V vocabulary.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple, cast

import mlx.core as mx

from mlx_gptoss.engine.sampling import SamplingParams, choose, log_softmax, top_logprobs


class Wish(NamedTuple):
    """How the token behind one row of logits is to be drawn."""

    params: SamplingParams
    seed: int  # of this one token
    legal: mx.array | None = None  # logits (V,) to draw from; None: the model's own


class Draw:
    """One token that was drawn, and may not be computed yet."""

    def __init__(
        self, draws: "Draws", row: int, top: tuple[mx.array, mx.array] | None
    ) -> None:
        self.draws = draws
        self.row = row
        self.top = top  # tokens and logprobs (n,), best first

    @property
    def token(self) -> mx.array:
        """The token () int32; does not wait for it."""
        return self.draws.tokens[self.row]

    def read(self) -> tuple[int, float, list[tuple[int, float]]]:
        """Wait for it: the token, its log-probability, and the likeliest ones.

        The log-probability is NaN or +inf where no token could be drawn: see
        `logprobs_of`.
        """
        token, logprob = self.draws.values[self.row]
        top = [cast("list[Any]", part.tolist()) for part in self.top or ()]
        return token, logprob, list(zip(*top, strict=True))


class Draws:
    """Tokens (B,) int32 that were drawn together, and their log-probabilities (B,)."""

    def __init__(self, tokens: mx.array, logprobs: mx.array) -> None:
        self.tokens = tokens
        self.logprobs = logprobs

    @cached_property
    def values(self) -> list[tuple[int, float]]:
        """Token and log-probability of each row. Waits for them."""
        both = (cast("list[Any]", x.tolist()) for x in (self.tokens, self.logprobs))
        return list(zip(*both, strict=True))


def draw(logits: mx.array, wishes: Sequence[Wish | None]) -> list[Draw | None]:
    """Choose a token for each row of logits (B, V) that has a wish; start computing."""
    rows = [b for b, wish in enumerate(wishes) if wish is not None]
    wanted = [wish for wish in wishes if wish is not None]
    drawn: list[Draw | None] = [None] * len(wishes)
    if not rows:
        return drawn
    if len(rows) < len(wishes):
        logits = logits[mx.array(rows)]
    legal = legal_rows(logits, wanted)
    tokens = choose_rows(legal, wanted)
    chosen = logprobs_of(tokens, logits, legal)
    draws = Draws(tokens, chosen)
    for n, (b, wish) in enumerate(zip(rows, wanted, strict=True)):
        count = wish.params.top_logprobs
        top = top_logprobs(log_softmax(logits[n]), count) if count else None
        drawn[b] = Draw(draws, n, top)
    mx.async_eval(tokens, chosen, [one.top for one in drawn if one and one.top])
    return drawn


def logprobs_of(tokens: mx.array, logits: mx.array, legal: mx.array) -> mx.array:
    """Return the log-probabilities (B,) of tokens (B,) by logits (B, V).

    NaN where a row is no distribution (a NaN, +inf, or nothing but -inf), and +inf
    where `legal`, from which the tokens were drawn, left none. Without a mask a row
    with +inf has its token there, and inf - inf is NaN without another operation.
    """
    places = tokens[:, None]
    total = mx.logsumexp(logits, axis=-1, keepdims=True)
    chosen = mx.take_along_axis(logits, places, axis=-1) - total
    if legal is not logits:
        drawn_from = mx.take_along_axis(legal, places, axis=-1)
        none_left = mx.where(drawn_from == -math.inf, math.inf, 0.0)
        chosen = chosen + mx.where(total == math.inf, math.nan, none_left)
    return chosen[:, 0]


def legal_rows(logits: mx.array, wishes: Sequence[Wish]) -> mx.array:
    """Return what each row is drawn from: (B, V)."""
    if all(wish.legal is None for wish in wishes):
        return logits
    return mx.stack(
        [
            logits[b] if wish.legal is None else wish.legal
            for b, wish in enumerate(wishes)
        ]
    )


def choose_rows(logits: mx.array, wishes: Sequence[Wish]) -> mx.array:
    """Choose a token for each row of logits (B, V) -> (B,); alike ones together."""
    alike: dict[tuple[float, ...], list[int]] = {}
    for b, wish in enumerate(wishes):
        alike.setdefault(wish.params.shape, []).append(b)
    parts = []
    for rows in alike.values():
        some = logits if len(alike) == 1 else logits[mx.array(rows)]
        params = wishes[rows[0]].params
        if params.greedy:
            parts.append(choose(some, params))
        elif len(rows) == 1:
            key = mx.random.key(wishes[rows[0]].seed)
            parts.append(choose(some[0], params, key)[None])
        else:
            keys = mx.stack([mx.random.key(wishes[b].seed) for b in rows])
            parts.append(choose(some, params, keys))
    if len(parts) == 1:
        return parts[0]
    order = [b for rows in alike.values() for b in rows]
    back = sorted(range(len(order)), key=order.__getitem__)
    return mx.concatenate(parts)[mx.array(back)]


def tokens_of(draws: Sequence[Draw]) -> mx.array:
    """Return the tokens (B,) of draws, as they are where all come from one go."""
    first = draws[0].draws
    whole = len(draws) == first.tokens.shape[0] and all(
        one.draws is first and one.row == b for b, one in enumerate(draws)
    )
    return first.tokens if whole else mx.stack([one.token for one in draws])
