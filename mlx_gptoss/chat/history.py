"""Where the turns of a conversation lie: a question, and all up to the next one.

Turns are counted from 1, as people count. Knows messages only.
"""

from collections.abc import Sequence
from dataclasses import replace

from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.messages import Message

TITLE_CHARACTERS = 60


def question_indexes(messages: Sequence[Message]) -> list[int]:
    """Return the places of the user's messages: each begins a turn."""
    return [n for n, message in enumerate(messages) if message.role == "user"]


def start_of_turn(messages: Sequence[Message], turn: int) -> int:
    """Return the place of the question of a turn. Raises PromptError without one."""
    places = question_indexes(messages)
    if not 1 <= turn <= len(places):
        turns = f"turns 1 to {len(places)}" if places else "no turns yet"
        raise PromptError(f"there is no turn {turn}: the conversation has {turns}")
    return places[turn - 1]


def end_of_turn(messages: Sequence[Message], turn: int) -> int:
    """Return the place behind the last message of a turn."""
    start_of_turn(messages, turn)
    return [*question_indexes(messages), len(messages)][turn]


def forgotten_after_edit(messages: Sequence[Message], forgotten: int) -> int:
    """Return how many messages stay forgotten after later ones may have been removed.

    All or none: without a turn behind them the older ones are shown again.
    """
    asked = question_indexes(messages)
    return forgotten if asked and forgotten < asked[-1] else 0


def cut_reason(messages: Sequence[Message]) -> str | None:
    """Return what cut the last turn short; None if it is whole, or goes on."""
    for message in reversed(messages):
        if message.ended or message.role == "user":
            return message.ended
    return None


def reopen_last_turn(messages: Sequence[Message]) -> list[Message]:
    """Return them with a last turn that has not ended."""
    begin = [0, *question_indexes(messages)][-1]
    last = (replace(one, ended=None) if one.ended else one for one in messages[begin:])
    return [*messages[:begin], *last]


def default_title(messages: Sequence[Message]) -> str:
    """Name a conversation by the first line that the user wrote; "" without one."""
    asked = next((m.text for m in messages if m.role == "user"), "")
    line = " ".join(next((x for x in asked.splitlines() if x.strip()), "").split())
    if len(line) <= TITLE_CHARACTERS:
        return line
    return line[: TITLE_CHARACTERS - 1].rstrip() + "…"
