"""Limits of a prompt and an answer: which ids, how many tokens, how many to reason."""

import sys
from collections.abc import Sequence

from mlx_gptoss.errors import PromptError
from mlx_gptoss.format.config import ModelConfig

ANSWER_DIVISOR = 4  # one part in 4 of the tokens is left for the answer
HEADER_TOKENS = 12  # around reasoning and answer
MIN_REASONING_ROOM = 64  # tokens; with fewer there is no reasoning, only an answer


def check_ids(ids: Sequence[int], config: ModelConfig | None) -> list[int]:
    """Copy prompt ids. Raises PromptError if there are none or one is not in the model.

    An id outside the vocabulary would read memory past the embedding.
    """
    ids = [int(token) for token in ids]
    if not ids:
        raise PromptError("the prompt is empty: give at least one token")
    rows = config.vocab_size if config else None
    wrong = [t for t in ids if t < 0 or (rows is not None and t >= rows)]
    if wrong:
        raise PromptError(
            f"token id {wrong[0]} is outside the vocabulary of {rows} tokens: "
            "encode the prompt with this model's own tokenizer"
        )
    return ids


def smallest_limit(*limits: int | None) -> int | None:
    """Return the smallest limit that is set, or None."""
    return min((limit for limit in limits if limit is not None), default=None)


def resolve_max_tokens(
    prompt_length: int, cached_length: int, context: int | None, max_tokens: int | None
) -> int:
    """Return the most tokens that can be generated within the context.

    Raises PromptError if the prompt is empty or leaves no room in the context.
    """
    if not prompt_length:
        raise PromptError("the prompt is empty: give at least one token")
    if context is None:
        return sys.maxsize if max_tokens is None else max_tokens
    room = context - cached_length - prompt_length
    if room <= 0:
        raise PromptError(
            f"the prompt has {cached_length + prompt_length:,} tokens and the context "
            f"holds {context:,}: shorten it, or start a new conversation"
        )
    return room if max_tokens is None else min(room, max_tokens)


def default_reasoning_budget(max_tokens: int) -> int:
    """Return how many of `max_tokens` may be reasoning, so that an answer follows."""
    if max_tokens < MIN_REASONING_ROOM:
        return 0
    return (max_tokens - HEADER_TOKENS) - (max_tokens - HEADER_TOKENS) // ANSWER_DIVISOR
