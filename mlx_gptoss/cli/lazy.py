"""Click commands that are imported only when they are called."""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class LazyCommand(NamedTuple):
    """The module and attribute of a command, and its line in the list of commands."""

    module: str
    attribute: str
    summary: str


class LazyGroup(click.Group):
    """A group that imports the commands in `lazy` only when they are called.

    `--help` shows their summaries from the table and imports none of them.
    """

    def __init__(
        self, *args: Any, lazy: Mapping[str, LazyCommand], **settings: Any
    ) -> None:
        super().__init__(*args, **settings)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*self.lazy, *self.commands])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self.lazy.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        return getattr(import_module(entry.module), entry.attribute)

    def shell_complete(
        self, ctx: click.Context, incomplete: str
    ) -> "list[CompletionItem]":
        """Complete the names of commands without importing the lazy ones."""
        from click.shell_completion import CompletionItem

        names = [
            CompletionItem(name, help=self._summary(name))
            for name in self.list_commands(ctx)
            if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the list of commands without importing the lazy ones."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, self._summary(name)) for name in self.list_commands(ctx)]
            )

    def _summary(self, name: str) -> str:
        if name in self.lazy:
            return self.lazy[name].summary
        return self.commands[name].get_short_help_str()
