"""What a /command is."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mlx_gptoss.cli.chat.loop import ChatLoop
    from mlx_gptoss.cli.chat.session import ChatSession

PATH: Literal["path"] = "path"
Word = tuple[str, str]  # what may be given, and what it means


@dataclass(frozen=True)
class ChatCommand:
    """A name, what it takes, what it does; `words` are what may be given to it."""

    name: str
    takes: str
    help: str
    run: "Callable[[ChatLoop, str], None]"
    words: "Callable[[ChatSession], Iterable[Word]] | Literal['path'] | None" = None

    @property
    def usage(self) -> str:
        return f"/{self.name} {self.takes}".rstrip()
