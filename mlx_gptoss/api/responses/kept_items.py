"""Items of a conversation that stay as they were once it has been summarized.

Instructions stay, and the newest of the user's messages that fit their share of the
context. Everything else before the newest summary is read from the summary only.
"""

from collections.abc import Callable, Sequence
from typing import Any

from mlx_gptoss.api.responses.item_fields import (
    content_parts,
    is_user_message,
    item_type,
)
from mlx_gptoss.api.responses.tools import INSTRUCTION_ROLES
from mlx_gptoss.api.sealed import unseal
from mlx_gptoss.harmony.content_parts import PARAGRAPH_BREAK
from mlx_gptoss.harmony.json_text import Json

COMPACTION = "compaction"
QUESTIONS_SHARE = 1 / 4  # of the context, for questions that are kept as they were
MOST_QUESTION_TOKENS = 20_000
CountTokens = Callable[[str], int]


def superseded(
    items: Sequence[Any], count_tokens: CountTokens, context: int | None
) -> frozenset[int]:
    """Return the indices of items that the newest summary stands for."""
    summaries = [n for n, item in enumerate(items) if is_own_summary(item)]
    if not summaries:
        return frozenset()
    before = range(summaries[-1])
    stay = {n for n in before if is_instruction(items[n])}
    return frozenset(before).difference(
        stay, kept_questions(items[: before.stop], count_tokens, context)
    )


def kept_questions(
    items: Sequence[Any], count_tokens: CountTokens, context: int | None
) -> list[int]:
    """Return the indices of the newest messages of the user that fit their share."""
    room = MOST_QUESTION_TOKENS
    if context is not None:
        room = min(room, int(context * QUESTIONS_SHARE))
    kept: list[int] = []
    for index in range(len(items) - 1, -1, -1):
        if is_user_message(items[index]):
            room -= count_tokens(message_text(items[index]))
            if room < 0:
                break
            kept.append(index)
    return kept[::-1]


def is_own_summary(item: Json) -> bool:
    """Whether an item is a summary that this server can read."""
    sealed = item.get("encrypted_content")
    if item_type(item) != COMPACTION or not isinstance(sealed, str):
        return False
    return unseal(sealed) is not None


def is_instruction(item: Json) -> bool:
    """Whether an item instructs the model or adds tools."""
    kind = item_type(item)
    if kind == "message":
        return item.get("role") in INSTRUCTION_ROLES
    return kind == "additional_tools"


def message_text(item: Json) -> str:
    """Return the text of a message; other content becomes lines."""
    parts = content_parts(item.get("content"), "input")
    return PARAGRAPH_BREAK.join(part.text for part in parts)
