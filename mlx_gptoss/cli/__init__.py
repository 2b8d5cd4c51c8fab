"""The mlx-gptoss command line: one file per command, imported when it is called.

Answers go to stdout, everything else to stderr. Exit codes: 0 success, 1 a named
error (one line on stderr), 2 wrong usage, 130 interrupted. This module imports
click and nothing heavy, so that `mlx-gptoss --help` is instant.
"""

import sys
import threading
from functools import partial
from importlib import import_module
from io import TextIOWrapper
from typing import Any

import click

from mlx_gptoss import __version__
from mlx_gptoss.cli.colours import wants_colour
from mlx_gptoss.cli.exit_codes import INTERRUPTED, run, take_ending_signals
from mlx_gptoss.cli.lazy import LazyCommand, LazyGroup
from mlx_gptoss.errors import GptOssError, NeedsConversionError
from mlx_gptoss.files import check_environment_folders

COMMANDS = {
    "generate": LazyCommand("mlx_gptoss.cli.generate", "generate", "Answer one prompt"),
    "chat": LazyCommand("mlx_gptoss.cli.chat", "chat", "Hold a conversation"),
    "run": LazyCommand(
        "mlx_gptoss.cli.chat", "run_command", "Chat with a model, as `ollama run` does"
    ),
    "serve": LazyCommand(
        "mlx_gptoss.cli.serve", "serve", "Serve OpenAI's and Anthropic's APIs"
    ),
    "ps": LazyCommand("mlx_gptoss.cli.servers", "ps", "List running servers"),
    "stop": LazyCommand("mlx_gptoss.cli.servers", "stop", "Stop running servers"),
    "sessions": LazyCommand(
        "mlx_gptoss.cli.sessions",
        "sessions",
        "List, search, export or delete conversations",
    ),
    "use": LazyCommand("mlx_gptoss.cli.use", "use", "Choose the default model"),
    "pull": LazyCommand("mlx_gptoss.cli.models", "pull", "Download a model"),
    "models": LazyCommand(
        "mlx_gptoss.cli.models", "models", "List or delete local models"
    ),
    "inspect": LazyCommand(
        "mlx_gptoss.cli.inspect", "inspect", "Check and describe a model"
    ),
    "convert": LazyCommand(
        "mlx_gptoss_convert.cli.convert", "convert_command", "Convert a checkpoint"
    ),
    "tune": LazyCommand(
        "mlx_gptoss.cli.tune", "tune", "Train an adapter, and report on it"
    ),
    "batch": LazyCommand(
        "mlx_gptoss.cli.batch", "batch", "Work through a file of requests or texts"
    ),
    "redact": LazyCommand(
        "mlx_gptoss.cli.redact", "redact", "Mask what is private in texts"
    ),
    "unredact": LazyCommand(
        "mlx_gptoss.cli.redact", "unredact", "Put back what `redact` masked"
    ),
    "classify": LazyCommand(
        "mlx_gptoss.cli.classify", "classify", "Judge texts by a policy of one's own"
    ),
    "merge": LazyCommand(
        "mlx_gptoss_convert.cli.merge", "merge_command", "Merge an adapter into a model"
    ),
    "verify": LazyCommand(
        "mlx_gptoss_convert.cli.verify",
        "verify_command",
        "Verify a conversion",
    ),
    "compare": LazyCommand(
        "mlx_gptoss_convert.cli.compare",
        "compare_command",
        "Compare two conversions",
    ),
    "plan": LazyCommand(
        "mlx_gptoss.cli.plan", "plan", "Predict what fits and how fast it runs"
    ),
    "probe": LazyCommand(
        "mlx_gptoss.cli.probe", "probe", "Measure this disk and device"
    ),
    "trace": LazyCommand("mlx_gptoss.cli.trace", "trace", "Record and replay routing"),
    "bench": LazyCommand("mlx_gptoss.cli.bench", "bench", "Measure speed"),
    "render": LazyCommand(
        "mlx_gptoss.cli.render", "render", "Show the exact prompt of a conversation"
    ),
    "parse": LazyCommand("mlx_gptoss.cli.parse", "parse", "Explain a stream of tokens"),
    "agents": LazyCommand("mlx_gptoss.cli.agents", "agents", "Set up coding agents"),
    "doctor": LazyCommand("mlx_gptoss.cli.doctor", "doctor", "Examine this machine"),
    "completion": LazyCommand(
        "mlx_gptoss.cli.completion",
        "completion",
        "Complete commands, models and sessions in a shell",
    ),
}


class CommandLine(LazyGroup):
    """List the commands in table order; turn errors into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lazy)

    def main(self, *args: Any, standalone_mode: bool = True, **options: Any) -> Any:
        """Run a command and, in standalone mode, exit with its code."""
        work = partial(super().main, *args, standalone_mode=False, **options)
        return run(work) if standalone_mode else work()

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except NeedsConversionError as error:
            raise click.ClickException(f"{error}{size_of_result(error)}") from error
        except GptOssError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            if error.filename is None:  # from stdout: see `exit_codes.py`
                raise
            raise click.ClickException(
                f"`{error.filename}`: {error.strerror}; check the path and its "
                "permissions"
            ) from error
        except KeyboardInterrupt:
            click.echo(err=True)
            ctx.exit(INTERRUPTED)


def size_of_result(error: NeedsConversionError) -> str:
    """Say what converting a model takes of disk, if it is on this machine.

    Raises ClickException where it cannot be converted either, with the reason.
    """
    if error.source is None:
        return ""
    sizes = import_module("mlx_gptoss_convert.cli.sources")
    try:
        return f"; {sizes.describe_result(error.source)}"
    except GptOssError as reason:
        raise click.ClickException(str(reason)) from reason


@click.group(
    cls=CommandLine,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="mlx-gptoss")
def cli() -> None:
    """Run OpenAI's gpt-oss on this machine.

    \b
    mlx-gptoss generate "What is 417 + 285?"
    mlx-gptoss chat -m openai/gpt-oss-20b
    mlx-gptoss use openai/gpt-oss-20b
    """
    if not wants_colour():
        click.get_current_context().color = False  # for all that click prints
    if threading.current_thread() is threading.main_thread():
        click.get_current_context().call_on_close(take_ending_signals())
    check_environment_folders()
    for stream in (sys.stdout, sys.stderr):
        # A terminal without UTF-8 shows `?` for an emoji instead of failing.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
