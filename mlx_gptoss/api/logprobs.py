"""Log-probabilities as wire types, with values that JSON can hold."""

import math
from collections.abc import Iterable
from typing import Any

from mlx_gptoss.api.wire import TokenLogprob, TopLogprob
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.engine.outputs import Step

MIN_LOGPROB = -9999.0  # OpenAI's value for a token of probability zero


def clamp_logprob(logprob: float) -> float:
    """Return a finite log-probability, as JSON needs it."""
    return max(logprob, MIN_LOGPROB) if math.isfinite(logprob) else MIN_LOGPROB


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """Return the text of one token; half a character is U+FFFD."""
    return tokenizer.token_bytes(token).decode("utf-8", "replace")


def token_logprobs(tokenizer: Tokenizer, steps: Iterable[Step]) -> list[TokenLogprob]:
    """Describe sampled tokens and their most likely alternatives."""

    def fields(token: int, logprob: float) -> dict[str, Any]:
        return {
            "token": token_text(tokenizer, token),
            "logprob": clamp_logprob(logprob),
            "bytes": list(tokenizer.token_bytes(token)),
        }

    return [
        TokenLogprob(
            **fields(step.token, step.logprob),
            top_logprobs=[TopLogprob(**fields(*top)) for top in step.top_logprobs],
        )
        for step in steps
    ]
