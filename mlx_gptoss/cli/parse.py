"""`mlx-gptoss parse`: explain a stream of token ids, part by part."""

import json
from typing import IO

import click

from mlx_gptoss.cli.input_lines import read_file
from mlx_gptoss.cli.options import json_option, model_option, named_model
from mlx_gptoss.cli.services import Services, pass_services


@click.command(short_help="Explain a stream of tokens")
@click.argument("file", type=click.File(encoding="utf-8"), default="-")
@model_option
@click.option(
    "--tool", "tools", multiple=True, help="Name of an offered tool; may be repeated"
)
@click.option("--no-tools", is_flag=True, help="No tools are offered")
@click.option(
    "--no-calls-on-analysis",
    is_flag=True,
    help="Refuse function calls on the analysis channel",
)
@json_option
@pass_services
def parse(
    services: Services,
    file: IO[str],
    model: str | None,
    tools: tuple[str, ...],
    no_tools: bool,
    no_calls_on_analysis: bool,
    as_json: bool,
) -> None:
    """Explain the stream in FILE or stdin: each id, event and repair.

    The stream is token ids, or text in which names such as <|start|> are the special
    tokens. It is what a model says behind <|start|>assistant, or a whole conversation
    that begins with <|start|>. A tool is named by itself (get_weather), or built in:
    python, browser.search. Without --tool, every name is taken for a tool.

    \b
    echo '<|channel|>final<|message|>Hi<|return|>' | mlx-gptoss parse
    mlx-gptoss render conversation.json --ids | mlx-gptoss parse
    """
    from mlx_gptoss.harmony.parse.explain import explain, read_stream
    from mlx_gptoss.harmony.parse.tool_names import is_built_in

    if tools and no_tools:
        raise click.UsageError("choose one of --tool and --no-tools")
    tokenizer = services.tokenizer(named_model(model))
    ids = read_stream(read_file(file), tokenizer)
    built_in = [name for name in tools if is_built_in(name)]
    functions = [name for name in tools if not is_built_in(name)]
    found = explain(
        ids,
        tokenizer,
        tools=functions if tools or no_tools else None,
        built_in=built_in,
        calls_on_analysis=not no_calls_on_analysis,
    )
    if as_json:
        click.echo(json.dumps(found.as_dict(), ensure_ascii=False))
    else:
        for line in found.lines():
            click.echo(line)
