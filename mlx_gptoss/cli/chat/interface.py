"""The interface that a conversation needs: implemented by screen, pipe and tests."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mlx_gptoss.engine.outputs import Statistics
    from mlx_gptoss.engine.prompt_progress import PromptProgress
    from mlx_gptoss.harmony.events import Event, ToolCall


@dataclass(frozen=True)
class ShownAnswer:
    """The outcome of showing an answer."""

    answer: str = ""
    stats: "Statistics | None" = None
    stopped: bool = False  # by the user


class ChatInterface(Protocol):
    """Provide the user's messages and show the model's answers."""

    interactive: bool  # whether a person types
    reasoning: str  # fold, show or hide

    def messages(self) -> Iterator[str]:
        """Yield the user's messages."""
        ...

    def show(self, events: "Generator[Event]", stop: Callable[[], None]) -> ShownAnswer:
        """Show a turn to its end. Raises what `events` raise."""
        ...

    def show_progress(self, progress: "PromptProgress") -> None:
        """Show how a prompt is read; called in another thread, does not block."""
        ...

    def ask(self, call: "ToolCall") -> str:
        """Ask whether a call may run: once, always, no or never."""
        ...

    def compose(self, text: str) -> str | None:
        """Let the user edit a text; return None if that is impossible."""
        ...

    def recall(self) -> None:
        """Show the reasoning and the results of the last turn in full."""
        ...

    def replay(self, question: str, answer: str) -> None:
        """Show an earlier turn."""
        ...

    def echo(self, text: str) -> None:
        """Show a message that the user did not type."""
        ...

    def give_back(self, text: str) -> None:
        """Give back a message that could not be sent, for another try."""
        ...
