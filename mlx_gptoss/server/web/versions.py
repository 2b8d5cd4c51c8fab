"""Versions of a turn: conversations that have what comes before it in common.

Editing a question, or asking for another answer, begins a new conversation with the
same beginning; its notes name the first of its family. Arrows lead from one to the
next. Knows saved chats as data.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mlx_gptoss.chat.history import question_indexes
from mlx_gptoss.harmony.messages import Message

FAMILY = "family"  # the note with the id of the first conversation


def family_of(id: str, notes: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the first conversation of the family that a conversation belongs to."""
    return str(notes.get(id, {}).get(FAMILY) or id)


def members(
    family: str, ids: Sequence[str], notes: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Return the conversations of a family, in the order of `ids`."""
    return [id for id in ids if family_of(id, notes) == family]


def versions_of_turns(
    id: str, histories: Mapping[str, Sequence[Message]]
) -> list[dict[str, Any] | None]:
    """Return for each turn of a conversation its versions; None where there is one.

    `histories` are those of the family by id, the oldest first. A version is named by
    the conversation that it leads to: {"at": 1, "of": [ID, ID, …]}.
    """
    own = histories[id]
    starts = question_indexes(own)
    found: list[dict[str, Any] | None] = []
    for turn, start in enumerate(starts):
        seen: list[tuple[list[Message], str]] = []
        for other, messages in histories.items():
            begins = question_indexes(messages)
            if turn >= len(begins) or messages[:start] != own[:start]:
                continue
            end = [*begins, len(messages)][turn + 1]
            part = list(messages[begins[turn] : end])
            same = next((n for n, (known, _) in enumerate(seen) if known == part), None)
            if same is None:
                seen.append((part, other))
            elif other == id:
                seen[same] = (part, id)
        ids = [name for _, name in seen]
        several = len(ids) > 1 and id in ids
        found.append({"at": ids.index(id), "of": ids} if several else None)
    return found
