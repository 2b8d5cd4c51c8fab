"""How a conversation begins: at which interface, with what said and what before."""

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_gptoss.cli.chat.commands import COMMANDS
from mlx_gptoss.cli.chat.commands.saved import show_where
from mlx_gptoss.cli.chat.files import with_file
from mlx_gptoss.cli.chat.interface import ChatInterface
from mlx_gptoss.cli.chat.loop import ChatLoop
from mlx_gptoss.cli.chat.plain import PlainInterface
from mlx_gptoss.cli.chat.session import ChatSession, SessionOptions, open_conversation
from mlx_gptoss.cli.chat.status import status_line
from mlx_gptoss.cli.input_history import history_file
from mlx_gptoss.cli.input_lines import open_lines, read_all
from mlx_gptoss.cli.terminal import note
from mlx_gptoss.cli.tool_options import ToolOptions
from mlx_gptoss.errors import SessionError

if TYPE_CHECKING:
    from mlx_gptoss.chat.sessions import Sessions
    from mlx_gptoss.cli.options import LoadOptions
    from mlx_gptoss.cli.services import Services
    from mlx_gptoss.harmony.events import ToolCall

STDIN = "stdin"  # how what was piped in is called


@dataclass(frozen=True)
class StartOptions:
    """What the user said about the beginning."""

    prompt: str | None
    reasoning: str
    session: str | None = None
    resume: bool = False
    private: bool = False


def hold(
    services: "Services",
    options: "LoadOptions",
    setup: SessionOptions,
    tools: ToolOptions,
    start: StartOptions,
) -> None:
    """Hold the conversation to its end."""
    typed = sys.stdin.isatty() and sys.stdout.isatty()
    once = start.prompt is not None and not typed
    first = start.prompt
    if once and not sys.stdin.isatty():
        first = _with_stdin(start.prompt or "")
    options = replace(options, model=options.named_model())
    interface: ChatInterface | None = None

    def ask(call: "ToolCall") -> str:
        assert interface is not None
        return interface.ask(call)

    with open_conversation(
        services, options, setup, tools, ask=ask, store=_store(services, start)
    ) as conversation:
        interface = _interface(conversation, start, once=once)
        _begin(conversation, interface, start)
        if interface.interactive:
            note("/help for help, Ctrl-D to leave")
            if conversation.chat.tools:
                note(f"Tools: {', '.join(conversation.chat.tools)}")
        loop = ChatLoop(conversation, interface, COMMANDS)
        if once:
            loop.say(first or "")
        else:
            loop.run(first)


def _store(services: "Services", start: StartOptions) -> "Sessions | None":
    """Open the kept chats; a disk that takes none does not forbid to talk."""
    if start.private:
        return None
    try:
        return services.sessions()
    except SessionError as error:
        if start.resume or start.session:
            raise
        click.echo(f"Warning: {error}; this chat is not kept", err=True)
        return None


def _begin(
    conversation: ChatSession, interface: ChatInterface, start: StartOptions
) -> None:
    """Go on with the chat that was asked for, or begin one."""
    if not start.resume and not start.session:
        conversation.measure()
        return
    said = conversation.setup.said
    if start.session:
        conversation.load(start.session, **said)
    else:
        conversation.load_last(**said)
    show_where(conversation, interface)


def _interface(
    conversation: ChatSession, start: StartOptions, *, once: bool
) -> ChatInterface:
    if not _draws(once):
        return PlainInterface(open_lines(), reasoning=start.reasoning)
    from mlx_gptoss.cli.chat.completion import ChatCompleter
    from mlx_gptoss.cli.chat.full_screen import FullInterface
    from mlx_gptoss.cli.chat.prompt import MessagePrompt

    prompt = None
    if not once:
        prompt = MessagePrompt(
            history=_history(start), completer=ChatCompleter(COMMANDS, conversation)
        )
    return FullInterface(
        reasoning=start.reasoning,
        status=lambda: status_line(conversation),
        prompt=prompt,
    )


def _draws(once: bool) -> bool:
    """Whether there is a terminal to draw on, and keys to be read from one."""
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return False
    return sys.stdin.isatty() or (once and _has_terminal())


def _has_terminal() -> bool:
    """Whether there are keys, though stdin is a pipe."""
    from mlx_gptoss.cli.chat.keys import TERMINAL

    try:
        os.close(os.open(TERMINAL, os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _history(start: StartOptions) -> Path | None:
    return None if start.private else history_file()


def _with_stdin(prompt: str) -> str:
    """Put what comes on stdin behind the prompt, if anything does."""
    piped = read_all()
    return with_file(prompt, STDIN, piped) if piped.strip() else prompt
