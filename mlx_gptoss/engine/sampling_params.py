"""From logits to a token: pure functions of logits, settings and an explicit key.

Knows nothing of models or of text. Logits are float32, (V,) or (B, V).

The order is: bias, temperature, top-k, top-p, min-p. Log-probabilities shown to users
are those of the unmodified logits (`log_softmax`), whatever was sampled.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx

from mlx_gptoss.errors import PromptError

GREEDY_BELOW = 1e-5  # temperatures smaller than this differ from 0 in rounding only
MAX_TOP_LOGPROBS = 20
MAX_BIAS = 1e30  # decides by itself, and is far from the end of float32


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen; the defaults are those OpenAI recommends for gpt-oss.

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 are off. `max_tokens`
    None means until a stop token or the end of the context. `seed` None draws one.
    Raises PromptError for a value out of range.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    logit_bias: Mapping[int, float] | None = None
    top_logprobs: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            require_integer("max_tokens", self.max_tokens, 1, None)
        require_number("temperature", self.temperature, 0, None)
        require_number("top_p", self.top_p, 0, 1)
        require_integer("top_k", self.top_k, 0, None)
        require_number("min_p", self.min_p, 0, 1)
        if self.seed is not None:
            require_integer("seed", self.seed, None, None)
        require_integer("top_logprobs", self.top_logprobs, 0, MAX_TOP_LOGPROBS)
        for token, bias in (self.logit_bias or {}).items():
            require_integer("logit_bias token", token, 0, None)
            require_number(f"logit_bias[{token}]", bias, None, None)

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW

    @property
    def batch_key(self) -> tuple[float, ...]:
        """What is done to the logits behind the bias: rows alike can be done as one."""
        if self.greedy:
            return ()
        return self.temperature, self.top_k, self.top_p, self.min_p


def require_integer(
    name: str, value: object, low: int | None, high: int | None
) -> None:
    if type(value) is not int or not in_range(value, low, high):
        raise PromptError(
            f"`{name}` is {value!r}, expected a whole number{range_text(low, high)}"
        )


def require_number(name: str, value: object, low: int | None, high: int | None) -> None:
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and in_range(value, low, high)
    ):
        return
    raise PromptError(
        f"`{name}` is {value!r}, expected a number{range_text(low, high)}"
    )


def in_range(value: float, low: int | None, high: int | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)


def range_text(low: int | None, high: int | None) -> str:
    if high is not None:
        return f" from {low} to {high}"
    return "" if low is None else f", {low} or more"


def sample(logits: mx.array, params: SamplingParams, key: mx.array) -> mx.array:
    """Choose a token: (V,) -> () or (B, V) -> (B,), int32.

    One key (2,) serves one call: the rows of a batch are drawn independently from it.
    With keys (B, 2) each row gets the token that it would get alone with its own.
    """
    if params.logit_bias:
        logits = add_bias(logits, params.logit_bias)
    return sample_without_bias(logits, params, key)


def sample_without_bias(
    logits: mx.array, params: SamplingParams, key: mx.array | None = None
) -> mx.array:
    """Do what `sample` does behind the bias; a greedy choice needs no key."""
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
    """Add to the logits of single tokens; what is beyond MOST_BIAS counts as that."""
    tokens, V = list(logit_bias), logits.shape[-1]
    if max(tokens) >= V:
        raise PromptError(
            f"`logit_bias` names token {max(tokens)}, but the vocabulary has {V}: "
            "use the ids of this model's tokenizer"
        )
    values = [max(-MAX_BIAS, min(value, MAX_BIAS)) for value in logit_bias.values()]
    bias = mx.array(values, logits.dtype)
    return logits.at[..., mx.array(tokens)].add(bias)


def keep_top_k(logits: mx.array, k: int) -> mx.array:
    """Keep exactly the k largest."""
    rest = mx.argpartition(-logits, kth=k - 1, axis=-1)[..., k:]
    return mx.put_along_axis(logits, rest, mx.array(-mx.inf, logits.dtype), axis=-1)


def keep_top_p(logits: mx.array, p: float) -> mx.array:
    """Keep the fewest most likely tokens whose probabilities reach p; at least one."""
    order = mx.argsort(-logits, axis=-1)
    ranked = mx.take_along_axis(logits, order, axis=-1)
    shares = mx.softmax(ranked, axis=-1, precise=True)
    before = mx.cumsum(shares, axis=-1, inclusive=False)
    kept = (before < p) | (before == 0)
    ranked = mx.where(kept, ranked, mx.array(-mx.inf, logits.dtype))
    return mx.put_along_axis(logits, order, ranked, axis=-1)


def keep_min_p(logits: mx.array, p: float) -> mx.array:
    """Keep tokens at least p times as likely as the likeliest."""
    least = logits.max(axis=-1, keepdims=True) + math.log(p)
    return mx.where(logits >= least, logits, mx.array(-mx.inf, logits.dtype))


def log_softmax(logits: mx.array) -> mx.array:
    """Return log-probabilities in float32."""
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def top_logprobs(logprobs: mx.array, count: int) -> tuple[mx.array, mx.array]:
    """Return the `count` likeliest tokens and their values, best first."""
    best = mx.argpartition(-logprobs, kth=count - 1, axis=-1)[..., :count]
    values = mx.take_along_axis(logprobs, best, axis=-1)
    order = mx.argsort(-values, axis=-1)
    tokens = mx.take_along_axis(best, order, axis=-1).astype(mx.int32)
    return tokens, mx.take_along_axis(values, order, axis=-1)
