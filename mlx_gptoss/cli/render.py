"""`mlx-gptoss render FILE`: show the exact prompt of a conversation."""

import json
from typing import IO

import click

from mlx_gptoss.cli.input_lines import read_file
from mlx_gptoss.cli.options import json_option, model_option, named_model
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.harmony.messages import EFFORTS, Effort


@click.command(short_help="Show the exact prompt of a conversation")
@click.argument("file", type=click.File(encoding="utf-8"), default="-")
@model_option
@click.option("--ids", is_flag=True, help="Print the token ids")
@click.option("--text", is_flag=True, help="Print the text (the default)")
@json_option
@click.option("--effort", type=click.Choice(EFFORTS), help="Reasoning effort")
@click.option("--date", metavar="DATE", help="Current date, in the form to write it")
@click.option(
    "--keep-analysis", is_flag=True, help="Keep the analysis of finished turns"
)
@pass_services
def render(
    services: Services,
    file: IO[str],
    model: str | None,
    ids: bool,
    text: bool,
    as_json: bool,
    effort: Effort | None,
    date: str | None,
    keep_analysis: bool,
) -> None:
    """Show the exact prompt for the conversation in FILE or stdin.

    FILE is JSON: OpenAI chat messages (a list, or an object with `messages`, `tools`,
    `response_format`, `reasoning_effort`), or a saved chat. On a terminal special
    tokens are coloured; typed ones are not. The date is the file's, or none.

    \b
    mlx-gptoss render conversation.json --ids
    echo '[{"role": "user", "content": "Hi"}]' | mlx-gptoss render
    """
    from mlx_gptoss.chat.conversation_file import read_conversation
    from mlx_gptoss.harmony.render.encode import encode_pieces
    from mlx_gptoss.harmony.render.pieces import pieces_text
    from mlx_gptoss.harmony.render.prompt import history_pieces

    if ids + text + as_json > 1:
        raise click.UsageError("choose one of --ids, --text and --json")
    given = read_conversation(read_file(file), effort=effort, conversation_date=date)
    name = named_model(model)
    tokenizer = services.tokenizer(name)
    pieces = history_pieces(given, keep_analysis=keep_analysis)
    numbers = encode_pieces(pieces, tokenizer)
    if as_json:
        whole = pieces_text(pieces)
        found = {"model": name, "text": whole, "ids": numbers, "tokens": len(numbers)}
        click.echo(json.dumps(found, ensure_ascii=False))
    elif ids:
        click.echo(" ".join(map(str, numbers)))
    else:
        parts = [
            click.style(one.text, fg="cyan") if one.special else one.text
            for one in pieces
        ]
        click.echo("".join(parts))
