"""What a conversation needs of whoever sits at it: a screen, a pipe, a test."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mlx_gptoss.engine.outputs import Statistics
    from mlx_gptoss.harmony.events import Event, ToolCall


@dataclass(frozen=True)
class ShownAnswer:
    """How an answer came out."""

    answer: str = ""
    stats: "Statistics | None" = None
    stopped: bool = False  # by the user


class ChatInterface(Protocol):
    """Takes what the user says and shows what the model answers."""

    interactive: bool  # whether a person types
    reasoning: str  # fold, show or hide

    def messages(self) -> Iterator[str]:
        """What the user says, until there is no more."""
        ...

    def show(self, events: "Generator[Event]", stop: Callable[[], None]) -> ShownAnswer:
        """Show a turn to its end; raises what `events` raise."""
        ...

    def ask(self, call: "ToolCall") -> str:
        """Ask whether a call may run: once, always, no or never."""
        ...

    def compose(self, text: str) -> str | None:
        """Let the user change a text; None if nobody can."""
        ...

    def recall(self) -> None:
        """Show the reasoning and the results of the last turn in full."""
        ...

    def replay(self, question: str, answer: str) -> None:
        """Show a turn of before."""
        ...

    def echo(self, text: str) -> None:
        """Show a message that was not typed here."""
        ...

    def give_back(self, text: str) -> None:
        """Offer a message that could not be sent for another try."""
        ...
