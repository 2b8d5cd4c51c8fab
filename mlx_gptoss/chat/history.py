"""Find and edit the turns of a history: a question and everything up to the next one.

Turns are counted from 1. Knows messages only.
"""

from collections.abc import Sequence
from dataclasses import replace

from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.messages import Message, user

TITLE_CHARACTERS = 60


def question_indexes(messages: Sequence[Message]) -> list[int]:
    """Return the indexes of the user's messages: each begins a turn."""
    return [n for n, message in enumerate(messages) if message.role == "user"]


def start_of_turn(messages: Sequence[Message], turn: int) -> int:
    """Return the index of the question of a turn. Raises PromptError without one."""
    indexes = question_indexes(messages)
    if not 1 <= turn <= len(indexes):
        turns = f"turns 1 to {len(indexes)}" if indexes else "no turns yet"
        raise PromptError(f"there is no turn {turn}: the conversation has {turns}")
    return indexes[turn - 1]


def start_of_last_turn(messages: Sequence[Message]) -> int:
    """Return the index of the last question. Raises PromptError without one."""
    return start_of_turn(messages, max(len(question_indexes(messages)), 1))


def end_of_turn(messages: Sequence[Message], turn: int) -> int:
    """Return the index behind the last message of a turn."""
    start_of_turn(messages, turn)
    return [*question_indexes(messages), len(messages)][turn]


def up_to_last_question(messages: Sequence[Message]) -> list[Message]:
    """Return the history without the last answer. Raises PromptError without a turn."""
    return reopen_last_turn(messages[: start_of_last_turn(messages) + 1])


def edited(messages: Sequence[Message], turn: int, text: str) -> list[Message]:
    """Return the history up to a turn, with `text` as its question.

    Raises PromptError if there is no such turn.
    """
    index = start_of_turn(messages, turn)
    return [*messages[:index], user(text, name=messages[index].name)]


def forgotten_after_edit(messages: Sequence[Message], forgotten: int) -> int:
    """Return how many messages stay forgotten after later ones may have been removed.

    All or none: without a turn behind them, the oldest messages are shown again.
    """
    indexes = question_indexes(messages)
    return forgotten if indexes and forgotten < indexes[-1] else 0


def cut_reason(messages: Sequence[Message]) -> str | None:
    """Return the reason the last turn was cut short; None if it is whole or open."""
    for message in reversed(messages):
        if message.ended or message.role == "user":
            return message.ended
    return None


def reopen_last_turn(messages: Sequence[Message]) -> list[Message]:
    """Return the history without the mark that its last turn was cut short."""
    start = [0, *question_indexes(messages)][-1]
    last = (replace(one, ended=None) if one.ended else one for one in messages[start:])
    return [*messages[:start], *last]


def default_title(messages: Sequence[Message]) -> str:
    """Return the first line of the first question, shortened; "" without one."""
    question = next((m.text for m in messages if m.role == "user"), "")
    line = " ".join(next((x for x in question.splitlines() if x.strip()), "").split())
    if len(line) <= TITLE_CHARACTERS:
        return line
    return line[: TITLE_CHARACTERS - 1].rstrip() + "…"
