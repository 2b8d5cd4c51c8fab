"""Decide what to leave out of a conversation that has outgrown the context.

Leaves out whole turns, the oldest first: a turn is a question and everything up to the
next one. The system and developer messages and the last turn always stay. Since the
prompt changes near its start, everything behind must be prefilled again; therefore much
is left out at once, so that it happens rarely.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import suppress

from mlx_gptoss.errors import LongPromptError
from mlx_gptoss.harmony.messages import Message

ERROR, DROP_OLDEST = "error", "drop-oldest"
OVERFLOWS = (ERROR, DROP_OLDEST)

ANSWER_SHARE = 1 / 8  # of the context, reserved for the answer
KEPT_SHARE = 1 / 2  # of the context, filled at most once turns are left out


def max_prompt_tokens(context: int, max_tokens: int | None) -> int:
    """Return how many tokens a prompt may have; the rest is for the answer."""
    answer = int(context * ANSWER_SHARE)
    return context - (answer if max_tokens is None else min(max_tokens, answer))


def fit_prompt(
    messages: Sequence[Message],
    forgotten: int,
    render: Callable[[int], list[int]],
    *,
    context: int,
    max_tokens: int | None,
) -> tuple[list[int], int]:
    """Return a prompt that fits, and the index of the first message it shows.

    `render(n)` returns the prompt with the messages from `n` on; `forgotten` is the
    `n` of the prompt before. If even the last turn is too long, its prompt is returned
    for the caller to refuse, unless `render` raises LongPromptError.
    """

    def size(start: int) -> int:
        try:
            return len(render(start))
        except LongPromptError as error:
            return error.tokens

    with suppress(LongPromptError):
        ids = render(forgotten)
        if len(ids) <= max_prompt_tokens(context, max_tokens):
            return ids, forgotten
    later = first_kept_message(messages, context, size)
    ids = render(later)
    return ids, later if len(ids) < context else forgotten


def first_kept_message(
    messages: Sequence[Message], context: int, size: Callable[[int], int]
) -> int:
    """Return the index of the first message to show of a conversation that is too long.

    `size(n)` returns the tokens of the prompt with the messages from `n` on.
    """
    starts = [n for n, message in enumerate(messages) if message.role == "user"]
    if not starts:
        return 0
    fitting = bisect_left(
        starts, True, key=lambda start: size(start) <= context * KEPT_SHARE
    )
    return starts[min(fitting, len(starts) - 1)]
