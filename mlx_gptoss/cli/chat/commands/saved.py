"""Commands about files and the chats on disk."""

from pathlib import Path
from typing import TYPE_CHECKING

from mlx_gptoss.cli.chat.commands.command import PATH, Command
from mlx_gptoss.cli.chat.files import NO_PICTURES
from mlx_gptoss.cli.terminal import note
from mlx_gptoss.errors import PromptError

if TYPE_CHECKING:
    from mlx_gptoss.cli.chat.loop import Loop


def file(loop: "Loop", argument: str) -> None:
    """Let a file go with the next message."""
    if not argument:
        raise PromptError("name a file: /file PATH")
    tokens = loop.conversation.attach(Path(argument).expanduser())
    note(f"{argument} goes with your next message ({tokens:,} tokens)")


def image(loop: "Loop", argument: str) -> None:
    raise PromptError(NO_PICTURES)


COMMANDS = (
    Command(
        "file", "PATH", "put a file into the next message, as @PATH does", file, PATH
    ),
    Command("image", "PATH", "refused: gpt-oss reads text only", image, PATH),
)
