"""Limits of an answer: how many tokens it may have, and how many to reason with."""

import sys

from mlx_gptoss.errors import PromptError

ANSWER_DIVISOR = 4  # one part in 4 of the tokens is left for the answer
HEADER_TOKENS = 12  # around reasoning and answer
MIN_REASONING_ROOM = 64  # tokens; with fewer there is no reasoning, only an answer


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
