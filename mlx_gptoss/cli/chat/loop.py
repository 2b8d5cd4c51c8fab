"""The loop of a conversation: answer messages, run /commands."""

import re
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

import click

from mlx_gptoss.cli.chat.interface import ChatInterface
from mlx_gptoss.cli.finish_notes import note_ending
from mlx_gptoss.cli.terminal import note
from mlx_gptoss.cli.tool_options import show_sources
from mlx_gptoss.errors import GptOssError

if TYPE_CHECKING:
    from mlx_gptoss.cli.chat.commands import ChatCommand
    from mlx_gptoss.cli.chat.session import ChatSession
    from mlx_gptoss.harmony.events import Event

COMMAND = re.compile(r"/(\w*)(?:\s+(.*))?", re.DOTALL)  # a path has a second slash


class ChatLoop:
    """Connect a session and an interface."""

    def __init__(
        self,
        conversation: "ChatSession",
        interface: ChatInterface,
        commands: "Sequence[ChatCommand]",
    ) -> None:
        self.conversation = conversation
        self.interface = interface
        self.commands = {command.name: command for command in commands}
        self.leaving = False  # set by /quit

    def run(self, first: str | None = None) -> None:
        """Run until the user leaves; `first` is the first message."""
        if first is not None:
            self.interface.echo(first)
            self.say(first)
        for text in self.interface.messages():
            if found := COMMAND.fullmatch(text):
                self.obey(found[1], found[2] or "")
            else:
                self.say(text)
            if self.leaving:
                return

    def say(self, text: str) -> None:
        """Send a message; give it back if it cannot be sent."""
        attached = list(self.conversation.attached)
        try:
            events = self.conversation.send(text)
        except GptOssError as error:
            self.interface.give_back(text)
            self._fail(error)
        else:
            for remark in self.conversation.take_remarks():
                note(f"({remark})")
            if not self.answer(events):
                self.conversation.attached = attached
                self.interface.give_back(text)

    def answer(self, events: "Generator[Event]") -> bool:
        """Show an answer and keep it, even a partial one; return False without one."""
        conversation = self.conversation
        try:
            shown = self.interface.show(events, conversation.chat.cancel)
        except GptOssError as error:
            self._fail(error)
            return False
        conversation.answered(shown.stats)
        if shown.stopped and not self.interface.interactive:
            raise KeyboardInterrupt
        if shown.stopped:
            note("(stopped)")
        self._warn()
        note_ending(shown.stats, answer=shown.answer)
        show_sources(conversation.browser, shown.answer)
        return True

    def obey(self, name: str, argument: str) -> None:
        """Run a /command."""
        command = self.commands.get(name)
        if command is None:
            note(f"There is no /{name}; /help lists the commands")
            return
        try:
            command.run(self, argument.strip())
        except (GptOssError, click.UsageError) as error:
            self._fail(error)
        self._warn()

    def _warn(self) -> None:
        """Report a problem with saving the chat."""
        if problem := self.conversation.take_problem():
            click.echo(f"Warning: {problem}", err=True)

    def _fail(self, error: GptOssError | click.UsageError) -> None:
        """Report an error; in a terminal the conversation continues."""
        if not self.interface.interactive:
            raise error
        said = error.format_message() if isinstance(error, click.UsageError) else error
        click.echo(f"Error: {said}", err=True)
