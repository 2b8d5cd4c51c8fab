"""Log-probabilities as JSON can hold them."""

import math

from mlx_gptoss.checkpoint.tokenizer import Tokenizer

MIN_LOGPROB = -9999.0  # what stands for the logarithm of nothing, as OpenAI has it


def clamp_logprob(logprob: float) -> float:
    """Return a logprob that JSON can write."""
    return max(logprob, MIN_LOGPROB) if math.isfinite(logprob) else MIN_LOGPROB


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """The text of one token; half a character is U+FFFD."""
    return tokenizer.token_bytes(token).decode("utf-8", "replace")
