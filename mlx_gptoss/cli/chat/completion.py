"""What Tab offers: commands behind `/`, what they take, and files behind `@`."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from mlx_gptoss.cli.chat.commands import PATH, ChatCommand
from mlx_gptoss.cli.chat.layout import clean

if TYPE_CHECKING:
    from mlx_gptoss.cli.chat.session import ChatSession

NAME = re.compile(r"/(\w*)$")
ARGUMENT = re.compile(r"/(\w+)\s+(.*)$", re.DOTALL)
FILE = re.compile(r'(?:^|(?<=\s))@("?)([^"\n]*?|\S*)$')
MOST = 200  # entries of a folder


def is_completed(text: str) -> bool:
    """Whether something is offered without being asked for."""
    return bool(NAME.match(text) or ARGUMENT.match(text) or FILE.search(text))


class ChatCompleter(Completer):
    """Offers commands from their table, and what they take in a conversation."""

    def __init__(
        self, commands: Sequence[ChatCommand], conversation: "ChatSession"
    ) -> None:
        self.commands = {command.name: command for command in commands}
        self.conversation = conversation

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterator[Completion]:
        text = document.text_before_cursor
        if found := NAME.match(text):
            yield from self._names(found[1])
        elif found := ARGUMENT.match(text):
            yield from self._arguments(found[1], found[2])
        elif found := FILE.search(text):
            yield from files(found[2])

    def _names(self, begun: str) -> Iterator[Completion]:
        for name, command in self.commands.items():
            if name.startswith(begun):
                shown = f"/{name} {command.takes}".rstrip()
                yield Completion(
                    f"{name} " if command.takes else name,
                    start_position=-len(begun),
                    display=shown,
                    display_meta=command.help,
                )

    def _arguments(self, name: str, begun: str) -> Iterator[Completion]:
        command = self.commands.get(name)
        if command is None or command.words is None:
            return
        if command.words == PATH:
            yield from files(begun)
            return
        for word, meaning in command.words(self.conversation):
            if word.startswith(begun):
                meta = clean(meaning)
                yield Completion(word, start_position=-len(begun), display_meta=meta)


def files(begun: str) -> Iterator[Completion]:
    """Files and folders whose path begins so; hidden ones only if asked for."""
    folder, name = os.path.split(begun)
    try:
        entries = sorted(
            Path(folder or ".").expanduser().iterdir(), key=lambda one: one.name
        )
    except OSError:
        return
    for entry in entries[:MOST] if not name else entries:
        hidden = entry.name.startswith(".") and not name.startswith(".")
        if entry.name.startswith(name) and not hidden:
            end = "/" if entry.is_dir() else ""
            yield Completion(
                entry.name + end,
                start_position=-len(name),
                display=clean(entry.name) + end,
            )
