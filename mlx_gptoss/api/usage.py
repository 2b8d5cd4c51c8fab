"""Token counts in the form of chat completions and completions."""

from collections.abc import Sequence

from mlx_gptoss.api.generation import AnswerStream, TokenCounts
from mlx_gptoss.api.wire import (
    CompletionTokensDetails,
    CompletionUsage,
    PromptTokensDetails,
)


def completion_usage(counts: TokenCounts) -> CompletionUsage:
    """Write the counts of one or several answers."""
    return CompletionUsage(
        prompt_tokens=counts.prompt_tokens,
        completion_tokens=counts.completion_tokens,
        total_tokens=counts.prompt_tokens + counts.completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=counts.cached_tokens),
        completion_tokens_details=CompletionTokensDetails(
            reasoning_tokens=counts.reasoning_tokens
        ),
    )


def sum_usage(answers: Sequence[AnswerStream]) -> CompletionUsage:
    """Add up all choices of a request; a shared prompt counts once."""
    prompts = {id(answer.prompt.ids): answer.usage for answer in reversed(answers)}
    counts = [answer.usage for answer in answers]
    return completion_usage(
        TokenCounts(
            sum(one.prompt_tokens for one in prompts.values()),
            sum(one.cached_tokens for one in prompts.values()),
            sum(one.completion_tokens for one in counts),
            sum(one.reasoning_tokens for one in counts),
        )
    )
