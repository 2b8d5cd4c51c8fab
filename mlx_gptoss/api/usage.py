"""Tokens of a request as chat completions and completions count them."""

from collections.abc import Sequence

from mlx_gptoss.api.generation import AnswerStream, TokenCounts
from mlx_gptoss.api.wire import (
    CompletionTokensDetails,
    CompletionUsage,
    PromptTokensDetails,
)


def completion_usage(usage: TokenCounts) -> CompletionUsage:
    """Write the counts of one or several answers."""
    return CompletionUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=usage.cached_tokens),
        completion_tokens_details=CompletionTokensDetails(
            reasoning_tokens=usage.reasoning_tokens
        ),
    )


def sum_usage(turns: Sequence[AnswerStream]) -> CompletionUsage:
    """Add up all choices of a request; a prompt that several share counts once."""
    prompts = {id(turn.prompt.ids): turn.usage for turn in reversed(turns)}
    answers = [turn.usage for turn in turns]
    return completion_usage(
        TokenCounts(
            sum(one.prompt_tokens for one in prompts.values()),
            sum(one.cached_tokens for one in prompts.values()),
            sum(one.completion_tokens for one in answers),
            sum(one.reasoning_tokens for one in answers),
        )
    )
