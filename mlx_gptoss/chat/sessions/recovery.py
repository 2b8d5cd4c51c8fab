"""Add to the saved chats what killed programs left of their answers.

recover_answers(sessions, journals)    # when the file of chats is opened
"""

import datetime
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mlx_gptoss.chat.sessions.answer_journal import Journals, LeftBehind
from mlx_gptoss.errors import GptOssError, SessionError


class Recovering(Protocol):
    """The saved chats; `Sessions` is one."""

    say: Callable[[str], None]

    def load(self, id: str) -> dict[str, Any]: ...
    def save(self, chat: Any) -> None: ...


def recover_answers(sessions: Recovering, journals: Journals) -> None:
    """Save what is left; a chat that was changed or deleted meanwhile stays so.

    What cannot be saved is said, and tried again the next time.
    """
    try:
        for left in journals.left_behind():
            _add(sessions, left)
    except (OSError, GptOssError) as error:
        sessions.say(f"the end of an answer could not be saved: {error}")


def _add(sessions: Recovering, left: LeftBehind) -> None:
    try:
        stored = sessions.load(left.id)
    except SessionError:
        stored = None
    whole = left.data or stored
    if whole is None or (stored and stored["updated"]) != left.updated:
        return
    whole = _with_end(whole, left.messages)
    if whole is not None:
        from mlx_gptoss.chat.sessions.stored_state import (  # noqa: PLC0415 - MLX
            StoredState,
        )

        sessions.save(StoredState(whole))


def _with_end(
    data: dict[str, Any], messages: Sequence[dict[str, Any]]
) -> dict[str, Any] | None:
    """Return a chat with these messages and the mark of a kill; None if it is whole."""
    from mlx_gptoss.engine.finish_reasons import PROGRAM_ENDED  # noqa: PLC0415 - MLX

    history = [*data["messages"], *messages]
    if not history or (not messages and _is_whole(history[-1])):
        return None
    history[-1] = history[-1] | {"ended": PROGRAM_ENDED}
    now = datetime.datetime.now(datetime.UTC).isoformat()
    return data | {"messages": history, "updated": now}


def _is_whole(message: dict[str, Any]) -> bool:
    """Whether a turn ends with this message as it should."""
    is_answer = message["role"] == "assistant" and not message.get("recipient")
    return is_answer or "ended" in message
