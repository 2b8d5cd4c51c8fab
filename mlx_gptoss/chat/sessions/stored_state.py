"""A saved chat that is written again without a model: its title, notes, messages."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlx_gptoss.chat import saved
from mlx_gptoss.chat.history import default_title

if TYPE_CHECKING:
    from mlx_gptoss.harmony.messages import Message


class StoredState:
    """The value of `Chat.to_json`, for `Sessions.save`. Raises PromptError."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data
        self._chat = saved.from_json(data)
        self.id = self._chat.id

    @property
    def title(self) -> str:
        return self._chat.title or default_title(self._chat.messages)

    @property
    def messages(self) -> "Sequence[Message]":
        return self._chat.messages

    @property
    def questions(self) -> Sequence[str]:
        return [one.text for one in self._chat.messages if one.role == "user"]

    def to_json(self) -> dict[str, Any]:
        return dict(self._data)
