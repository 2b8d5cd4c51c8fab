"""The declaration of a /command."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mlx_gptoss.cli.chat.loop import ChatLoop
    from mlx_gptoss.cli.chat.session import ChatSession

PATH: Literal["path"] = "path"
Word = tuple[str, str]  # an argument and its meaning


@dataclass(frozen=True)
class ChatCommand:
    """A command's name, argument, action; `words` are its possible arguments."""

    name: str
    takes: str
    help: str
    run: "Callable[[ChatLoop, str], None]"
    words: "Callable[[ChatSession], Iterable[Word]] | Literal['path'] | None" = None

    @property
    def usage(self) -> str:
        return f"/{self.name} {self.takes}".rstrip()
