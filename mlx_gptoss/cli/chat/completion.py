"""Tab completion: commands after `/`, their arguments, and files after `@`."""

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
    """Say whether completions appear without pressing Tab."""
    return bool(NAME.match(text) or ARGUMENT.match(text) or FILE.search(text))


class ChatCompleter(Completer):
    """Complete commands from their table, and their arguments."""

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
    """Yield paths with this prefix; hidden ones only if it names them."""
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
