"""The mlx-gptoss command: one file a command, imported when it is called.

Answers go to stdout, everything else to stderr. Exit codes: 0 done, 1 a named
error (one line on stderr), 2 wrong usage, 130 interrupted. This module imports
click and nothing heavy, so that `mlx-gptoss --help` is instant.
"""

import sys
import threading
from functools import partial
from importlib import import_module
from io import TextIOWrapper
from typing import Any, NamedTuple

import click

from mlx_gptoss import __version__
from mlx_gptoss.cli.edge import INTERRUPTED, run, take_ending_signals
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.home import check_named_folders


class Entry(NamedTuple):
    """Where a command lives, and the line the list of commands shows for it."""

    module: str
    attribute: str
    summary: str


COMMANDS = {
    "generate": Entry("mlx_gptoss.cli.generate", "generate", "Answer one prompt"),
    "chat": Entry("mlx_gptoss.cli.chat", "chat", "Hold a conversation"),
    "serve": Entry("mlx_gptoss.cli.serve", "serve", "Serve OpenAI's API"),
    "sessions": Entry(
        "mlx_gptoss.cli.sessions",
        "sessions",
        "List, search, export or delete conversations",
    ),
    "use": Entry("mlx_gptoss.cli.use", "use", "Choose the default model"),
    "pull": Entry("mlx_gptoss.cli.models", "pull", "Download a model"),
    "models": Entry("mlx_gptoss.cli.models", "models", "List or delete local models"),
    "inspect": Entry("mlx_gptoss.cli.inspect", "inspect", "Check and describe a model"),
    "convert": Entry(
        "mlx_gptoss_convert.cli.convert", "command", "Convert a checkpoint"
    ),
    "verify": Entry(
        "mlx_gptoss_convert.cli.convert",
        "verify_command",
        "Prove what a conversion did",
    ),
    "compare": Entry(
        "mlx_gptoss_convert.cli.compare", "command", "Two conversions side by side"
    ),
    "plan": Entry("mlx_gptoss.cli.plan", "plan", "What fits, and how fast it would be"),
    "probe": Entry("mlx_gptoss.cli.probe", "probe", "Measure this disk and device"),
    "trace": Entry("mlx_gptoss.cli.trace", "trace", "Record and replay routing"),
    "bench": Entry("mlx_gptoss.cli.bench", "bench", "Measure speed"),
    "render": Entry(
        "mlx_gptoss.cli.render", "render", "Show the exact prompt of a conversation"
    ),
    "parse": Entry(
        "mlx_gptoss.cli.parse", "parse", "Explain what is read in a stream of tokens"
    ),
    "agents": Entry("mlx_gptoss.cli.agents", "agents", "Set up coding agents"),
    "doctor": Entry("mlx_gptoss.cli.doctor", "doctor", "Examine this machine"),
}


class CommandLine(click.Group):
    """A group that imports a command when it is asked for, and the one error edge."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        return getattr(import_module(entry.module), entry.attribute)

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the list from the table: help must not import what it lists."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, e.summary) for name, e in COMMANDS.items()])

    def main(self, *args: Any, standalone_mode: bool = True, **options: Any) -> Any:
        """Run a command; unless that is left to the caller, exit with its code."""
        work = partial(super().main, *args, standalone_mode=False, **options)
        return run(work) if standalone_mode else work()

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except GptOssError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            if error.filename is None:  # as of stdout: see `edge.py`
                raise
            raise click.ClickException(
                f"`{error.filename}`: {error.strerror}; check the path and its "
                "permissions"
            ) from error
        except KeyboardInterrupt:
            click.echo(err=True)
            ctx.exit(INTERRUPTED)


@click.group(cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mlx-gptoss")
def cli() -> None:
    """Run OpenAI's gpt-oss on this machine.

    \b
    mlx-gptoss generate "What is 417 + 285?"
    mlx-gptoss chat -m openai/gpt-oss-20b
    mlx-gptoss use openai/gpt-oss-20b
    """
    if threading.current_thread() is threading.main_thread():
        click.get_current_context().call_on_close(take_ending_signals())
    check_named_folders()
    for stream in (sys.stdout, sys.stderr):
        # A terminal without UTF-8 shows `?` for an emoji instead of failing.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
