"""Start a conversation: choose the interface, resume a chat, send the prompt."""

import os
import sys
from dataclasses import dataclass
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
    from mlx_gptoss.cli.services import Services
    from mlx_gptoss.engine.load_options import LoadOptions
    from mlx_gptoss.engine.prompt_progress import PromptProgress
    from mlx_gptoss.harmony.events import ToolCall

STDIN = "stdin"  # name of the piped text


@dataclass(frozen=True)
class StartOptions:
    """Options for starting a conversation."""

    prompt: str | None
    reasoning: str
    session: str | None = None
    resume: bool = False
    once: bool = False  # end after the answer to the prompt, at a terminal, too


def hold(
    services: "Services",
    model: str,
    options: "LoadOptions",
    setup: SessionOptions,
    tools: ToolOptions,
    start: StartOptions,
) -> None:
    """Run the conversation until it ends."""
    typed = sys.stdin.isatty() and sys.stdout.isatty()
    once = start.prompt is not None and (start.once or not typed)
    first = start.prompt
    if once and not sys.stdin.isatty():
        first = _with_stdin(start.prompt or "")
    interface: ChatInterface | None = None

    def ask(call: "ToolCall") -> str:
        assert interface is not None
        return interface.ask(call)

    def show_progress(progress: "PromptProgress") -> None:
        assert interface is not None
        interface.show_progress(progress)

    with open_conversation(
        services,
        model,
        options,
        setup,
        tools,
        ask=ask,
        on_progress=show_progress,
        store=_store(services, setup, start),
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


def _store(
    services: "Services", setup: SessionOptions, start: StartOptions
) -> "Sessions | None":
    """Open the store of chats; a conversation works without it, too."""
    if setup.private:
        return None
    try:
        return services.sessions()
    except SessionError as error:
        if start.resume or start.session:
            raise
        click.echo(f"Warning: {error}; this chat is not saved", err=True)
        return None


def _begin(
    conversation: ChatSession, interface: ChatInterface, start: StartOptions
) -> None:
    """Resume the requested chat, or start a new one."""
    if not start.resume and not start.session:
        conversation.measure()
        return
    said = {**conversation.given_adapter, **conversation.setup.said}
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
            history=None if conversation.setup.private else history_file(),
            completer=ChatCompleter(COMMANDS, conversation),
        )
    return FullInterface(
        reasoning=start.reasoning,
        status=lambda: status_line(conversation),
        prompt=prompt,
    )


def _draws(once: bool) -> bool:
    """Say whether there is a terminal to draw on and to read keys from."""
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return False
    return sys.stdin.isatty() or (once and _has_terminal())


def _has_terminal() -> bool:
    """Say whether keys can be read even if stdin is a pipe."""
    from mlx_gptoss.cli.chat.keys import TERMINAL

    try:
        os.close(os.open(TERMINAL, os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _with_stdin(prompt: str) -> str:
    """Append the text on stdin to the prompt, if there is any."""
    piped = read_all()
    return with_file(prompt, STDIN, piped) if piped.strip() else prompt
