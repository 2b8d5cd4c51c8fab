"""The tools that the operator offers, opened for the conversations that use them.

    offer = ToolOffer({"python": Notebook}, approval=ask_for_all)
    opened = OpenedTools(offer, ["python"])     # starts a notebook
    opened.close()

Knows tools; nothing of conversations or HTTP.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field

from mlx_gptoss.chat.tools import Approval, ToolLike
from mlx_gptoss.chat.tools.approval import AskUser

OpenTool = Callable[[], AbstractContextManager[ToolLike]]


def ask_for_all(ask: AskUser) -> Approval:
    """Return an approval that asks before every call."""
    return Approval("ask", ask=ask)


@dataclass(frozen=True)
class ToolOffer:
    """Tools by the names a conversation chooses them by, and who approves calls."""

    tools: Mapping[str, OpenTool] = field(default_factory=dict)
    approval: Callable[[AskUser], Approval] = ask_for_all

    @property
    def names(self) -> list[str]:
        """The names of all tools."""
        return list(self.tools)


class OpenedTools:
    """Running tools of one conversation: close them. Raises ToolError."""

    def __init__(self, offer: ToolOffer, names: Sequence[str]) -> None:
        self.names = tuple(name for name in names if name in offer.tools)
        self.tools: list[ToolLike] = []
        self._stack = ExitStack()
        try:
            for name in self.names:
                opening = offer.tools[name]()
                self.tools.append(self._stack.enter_context(opening))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop the tools. Idempotent."""
        self._stack.close()
