"""Sampling settings of one request, checked when they are made.

Plain numbers only; `sampler` applies them to logits.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mlx_gptoss.errors import PromptError

GREEDY_BELOW = 1e-5  # smaller temperatures differ from 0 only by rounding
MAX_TOP_LOGPROBS = 20


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """Sampling settings; the defaults are OpenAI's recommendation for gpt-oss.

    max_tokens: most tokens to generate, the stop token included; None generates until
        a stop token or the end of the context, 0 only reads the prompt.
    temperature: divides the logits, 0 or more; 0 is greedy decoding.
    top_p: nucleus sampling, 0 to 1: sample from the fewest most likely tokens whose
        probabilities sum to at least `top_p`; 1 is off.
    top_k: sample from the `top_k` most likely tokens; 0 is off.
    min_p: drop tokens less than `min_p` times as likely as the most likely one, 0 to 1;
        0 is off.
    seed: makes sampling reproducible; None takes a random seed.
    logit_bias: token id -> number added to its logit before anything else.
    top_logprobs: how many of the most likely tokens every Step reports, 0 to 20.
    prompt_logprobs: how many alternatives to report for every token of the prompt, 0 to
        20, beside its own log-probability; None computes none of it. The prompt cache
        is not used then.

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
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            _require_integer("max_tokens", self.max_tokens, 0, None)
        _require_number("temperature", self.temperature, 0, None)
        _require_number("top_p", self.top_p, 0, 1)
        _require_integer("top_k", self.top_k, 0, None)
        _require_number("min_p", self.min_p, 0, 1)
        if self.seed is not None:
            _require_integer("seed", self.seed, None, None)
        _require_integer("top_logprobs", self.top_logprobs, 0, MAX_TOP_LOGPROBS)
        if self.prompt_logprobs is not None:
            _require_integer(
                "prompt_logprobs", self.prompt_logprobs, 0, MAX_TOP_LOGPROBS
            )
        for token, bias in (self.logit_bias or {}).items():
            _require_integer("logit_bias token", token, 0, None)
            _require_number(f"logit_bias[{token}]", bias, None, None)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always chosen."""
        return self.temperature < GREEDY_BELOW


def _require_integer(
    name: str, value: object, low: int | None, high: int | None
) -> None:
    if type(value) is not int or not _in_range(value, low, high):
        raise PromptError(
            f"`{name}` is {value!r}, expected a whole number{_range_text(low, high)}"
        )


def _require_number(
    name: str, value: object, low: int | None, high: int | None
) -> None:
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and _in_range(value, low, high)
    ):
        return
    raise PromptError(
        f"`{name}` is {value!r}, expected a number{_range_text(low, high)}"
    )


def _in_range(value: float, low: int | None, high: int | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)


def _range_text(low: int | None, high: int | None) -> str:
    if high is not None:
        return f" from {low} to {high}"
    return "" if low is None else f", {low} or more"
