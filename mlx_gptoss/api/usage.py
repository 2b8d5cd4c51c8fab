"""Tokens of a request as chat completions and completions count them."""

from collections.abc import Sequence

from mlx_gptoss.api.generation import Turn, Usage
from mlx_gptoss.api.wire import CompletionDetails, PromptDetails, TokenUsage


def token_usage(usage: Usage) -> TokenUsage:
    """Write the counts of one or several answers."""
    return TokenUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details=PromptDetails(cached_tokens=usage.cached_tokens),
        completion_tokens_details=CompletionDetails(
            reasoning_tokens=usage.reasoning_tokens
        ),
    )


def usage_of(turns: Sequence[Turn]) -> TokenUsage:
    """Add up all choices of a request; a prompt that several share counts once."""
    prompts = {id(turn.prompt.ids): turn.usage for turn in reversed(turns)}
    answers = [turn.usage for turn in turns]
    return token_usage(
        Usage(
            sum(one.prompt_tokens for one in prompts.values()),
            sum(one.cached_tokens for one in prompts.values()),
            sum(one.completion_tokens for one in answers),
            sum(one.reasoning_tokens for one in answers),
        )
    )
