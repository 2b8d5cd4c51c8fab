"""The /commands, each declared once for its action, /help and completion.

settings.py   which model answers, and how
sampling.py   temperature and the like
history.py    retry, edit, branch, undo, copy
saved.py      chats and files on disk
"""

from typing import TYPE_CHECKING

from mlx_gptoss.cli.chat.commands import history, sampling, saved, settings
from mlx_gptoss.cli.chat.commands.command import PATH, ChatCommand, Word
from mlx_gptoss.cli.terminal import note

if TYPE_CHECKING:
    from mlx_gptoss.cli.chat.loop import ChatLoop

__all__ = ["COMMANDS", "PATH", "ChatCommand", "Word"]

KEYS = """\
Enter sends; Alt-Enter, or \\ before Enter, starts a new line; Tab completes
@path attaches a file; Ctrl-O shows the reasoning that was folded
A highlighted key answers a question about a call, after Enter while typing
While an answer is written, Enter keeps what you typed as the next message
Esc or Ctrl-C stops an answer and keeps what has arrived
Ctrl-D or Ctrl-C twice leaves; Ctrl-Z suspends, `fg` resumes"""


def show_help(loop: object, argument: str) -> None:
    """List the commands, or describe one."""
    name = argument.removeprefix("/")
    wanted = [one for one in COMMANDS if name in ("", one.name)]
    if not wanted:
        note(f"There is no /{name}; /help lists the commands")
        return
    width = max(len(one.usage) for one in wanted)
    lines = [f"{one.usage:<{width}}  {one.help}" for one in wanted]
    note("\n".join(lines if name else [*lines, "", KEYS]))


def leave(loop: "ChatLoop", argument: str) -> None:
    loop.leaving = True


COMMANDS = (
    *settings.COMMANDS,
    *sampling.COMMANDS,
    *history.COMMANDS,
    *saved.COMMANDS,
    ChatCommand("help", "[COMMAND]", "this list", show_help),
    ChatCommand("quit", "", "leave", leave),
    ChatCommand("exit", "", "leave", leave),
    ChatCommand("bye", "", "leave", leave),
)
