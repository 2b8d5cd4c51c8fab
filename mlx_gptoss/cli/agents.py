"""`mlx-gptoss agents`: settings of coding agents, and whether a server suits them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlx_gptoss.agents.endpoint import CONTEXT, URL, Endpoint
from mlx_gptoss.agents.tools import TOOLS
from mlx_gptoss.cli.options import json_option
from mlx_gptoss.cli.serving import KEY_VARIABLE, api_key
from mlx_gptoss.cli.settings import default_model
from mlx_gptoss.cli.terminal import note
from mlx_gptoss.hub.folders import is_path

if TYPE_CHECKING:
    from mlx_gptoss.agents.client import Client
    from mlx_gptoss.agents.setup import FileChange
    from mlx_gptoss.agents.steps import Outcome

SHOWN = 60  # characters of a note in the table

url_option = click.option(
    "--url", default=URL, show_default=True, help="Where the server answers"
)
key_option = click.option(
    "--api-key",
    "key",
    metavar="FILE|env:NAME",
    help=f"The key the server asks for [default: ${KEY_VARIABLE}, if it is set]",
)


@click.group(short_help="Set up coding agents")
def agents() -> None:
    """Point coding agents at this model, and check what they need of a server."""


@agents.command(short_help="Write an agent's settings")
@click.argument("tool", type=click.Choice(list(TOOLS)))
@url_option
@key_option
@click.option(
    "-m",
    "--model",
    metavar="MODEL",
    help="The model's id at the server [default: the one it lists]",
)
@click.option(
    "--context",
    type=click.IntRange(min=1024),
    default=CONTEXT,
    show_default=True,
    help="Tokens a conversation may have, as told to the agent",
)
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Settings file to change instead of the agent's own",
)
@click.option("--dry-run", is_flag=True, help="Show what would change, change nothing")
def setup(
    tool: str,
    url: str,
    key: str | None,
    model: str | None,
    context: int,
    file: Path | None,
    dry_run: bool,
) -> None:
    """Write the settings of a coding agent so that it uses this server.

    What else stands in its files stays, comments included, and each changed file is
    copied beside itself first. The change is shown.
    """
    from mlx_gptoss.agents.client import Client
    from mlx_gptoss.agents.setup import prepare

    token = api_key(key, needed=False, made=False)
    chosen = model or _served_model(Client(url, token, seconds=5))
    changes = prepare(tool, Endpoint(url, chosen, token, context), file=file)
    needed = [change for change in changes if change.needed]
    for change in needed:
        click.echo(change.diff(), nl=False, err=not dry_run)
    if not needed:
        note(f"{TOOLS[tool].title} is set up already: nothing to change")
    elif dry_run:
        note("Nothing was written (--dry-run)")
    else:
        for change in needed:
            note(_written(change))
        note(f"Start the model with `mlx-gptoss serve`, then `{TOOLS[tool].start}`")


def _written(change: "FileChange") -> str:
    backup = change.write()
    if backup is None:
        return f"Wrote {change.path}"
    return f"Wrote {change.path}; undo: mv '{backup}' '{change.path}'"


def _served_model(client: "Client") -> str:
    """The first model the server lists; without a server, the default model's id."""
    from mlx_gptoss.agents.client import Unreachable
    from mlx_gptoss.agents.steps import models

    try:
        return models(client)[0]
    except Unreachable:
        name, _hint = default_model()
        served = Path(name).name if is_path(name) else name
        note(f"No server answers at {client.url} now: taking the model `{served}`")
        return served


@agents.command(short_help="Try a server as agents would")
@click.argument("tool", type=click.Choice(list(TOOLS)), required=False)
@url_option
@key_option
@click.option("-m", "--model", metavar="MODEL", help="The model's id [default: first]")
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Take URL and key from what `serve --ready-file` wrote",
)
@json_option
@click.pass_context
def check(
    ctx: click.Context,
    tool: str | None,
    url: str,
    key: str | None,
    model: str | None,
    ready_file: Path | None,
    as_json: bool,
) -> None:
    """Hold a conversation with a running server as agents hold it.

    Answers, streams, calls of tools and their results, through the protocols of
    OpenAI (chat and responses) and Anthropic (messages); with TOOL, only through the
    one it speaks. Every reply must have the shape that clients read. Exits with 1 when
    a step fails.
    """
    from mlx_gptoss.agents.client import Client
    from mlx_gptoss.agents.steps import check as run
    from mlx_gptoss.agents.steps import models

    client = Client(url, api_key(key, needed=False, made=False))
    if ready_file is not None:
        client = Client.from_ready_file(ready_file)
    chosen = model or models(client)[0]
    protocols = [TOOLS[tool].protocol] if tool else None
    outcomes = []
    for outcome in run(client, chosen, protocols):
        outcomes.append(outcome)
        if not as_json:
            click.echo(_line(outcome))
    failed = sum(not outcome.passed for outcome in outcomes)
    if as_json:
        click.echo(_as_json(client, chosen, outcomes))
    else:
        note(f"{len(outcomes) - failed} of {len(outcomes)} steps passed, with {chosen}")
    if failed:
        ctx.exit(1)


def _line(outcome: "Outcome") -> str:
    mark = "ok" if outcome.passed else "FAILED"
    text = outcome.note
    if outcome.passed and len(text) > SHOWN:
        text = text[: SHOWN - 1] + "…"
    step = outcome.step
    return f"{mark:6}  {step.protocol:9}  {step.name:29}  {text}"


def _as_json(client: "Client", model: str, outcomes: Sequence["Outcome"]) -> str:
    steps = [
        {
            "protocol": outcome.step.protocol,
            "step": outcome.step.name,
            "passed": outcome.passed,
            "note": outcome.note,
            "seconds": round(outcome.seconds, 3),
        }
        for outcome in outcomes
    ]
    return json.dumps({"url": client.url, "model": model, "steps": steps}, indent=2)
