"""`mlx-gptoss tune`: train an adapter, and report what it changed.

mlx-gptoss tune DATA -m MODEL -o FOLDER        trains
mlx-gptoss tune report FOLDER                  reports
"""

import click

from mlx_gptoss.cli.tune.report import report
from mlx_gptoss.cli.tune.train import train


class TuneGroup(click.Group):
    """A group whose first argument is a command's name, or the data to train on."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["train", *args]
        return super().parse_args(ctx, args)


@click.group(cls=TuneGroup, short_help="Train an adapter, and report on it")
def tune() -> None:
    """Train an adapter (LoRA) of a model on your examples.

    `tune DATA ...` is short for `tune train DATA ...`.

    \b
    mlx-gptoss tune chats.jsonl -m openai/gpt-oss-20b -o ./mine
    mlx-gptoss tune report ./mine
    mlx-gptoss chat -m openai/gpt-oss-20b -a ./mine
    """


tune.add_command(train)
tune.add_command(report)
